#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <initializer_list>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

#include "common/amx.h"
#include "common/checks.h"
#include "common/isa.h"
#include "common/pages.h"
#include "common/scratch.h"
#include "common/views.h"
#include "moe/kernels.h"

RECENGINE_DECLARE(RECENGINE_MOE_KERNELS)

namespace recengine {
namespace {

using torch::stable::new_empty;
using torch::stable::new_zeros;
using torch::stable::parallel_for;

bool is_bf16(const Tensor& t) { return t.scalar_type() == ScalarType::BFloat16; }

const char* element(const Tensor& t, int64_t offset) {
  return static_cast<const char*>(t.const_data_ptr()) + offset * (is_bf16(t) ? 2 : 4);
}

// The rows of token position t of a [B, T, D] tensor.
Matrix position(const Tensor& x, int64_t t) { return {element(x, t * x.stride(1)), x.stride(0), x.stride(2), is_bf16(x)}; }
MutableMatrix mutable_position(const Tensor& x, int64_t t) {
  char* base = static_cast<char*>(x.mutable_data_ptr()) + t * x.stride(1) * (is_bf16(x) ? 2 : 4);
  return {base, x.stride(0), x.stride(2), is_bf16(x)};
}
// The matrix of expert e of token position t of a [T, E, rows, cols] tensor.
Matrix bank(const Tensor& w, int64_t t, int64_t e) {
  return {element(w, t * w.stride(0) + e * w.stride(1)), w.stride(2), w.stride(3), is_bf16(w)};
}

// --- routing

void check_router(const char* op, const Tensor& x, const Tensor& router) {
  check_dim(op, "x", x, 3);
  check_dim(op, "router", router, 3);
  check_float_or_bf16(op, "x", x);
  check_float_or_bf16(op, "router", router);
  RECENGINE_CHECK(router.is_cpu(), op, ": router must be on the CPU as x is");
  check_size(op, "router", router, 0, x.size(1));
  check_size(op, "router", router, 1, x.size(2));
}

Matrix router_of(const Tensor& router, int64_t t) {
  return {element(router, t * router.stride(0)), router.stride(1), router.stride(2), is_bf16(router)};
}

std::tuple<Tensor, Tensor, Tensor> moe_route(const Tensor& x, const Tensor& router, int64_t k) {
  const char* op = "moe_route";
  check_router(op, x, router);
  const int64_t rows = x.size(0), positions = x.size(1), width = x.size(2), experts = router.size(2);
  RECENGINE_CHECK(k >= 1 && k <= experts, op, ": k is ", k, ", expected 1 to the number of experts (", experts, ")");
  Tensor chosen = new_empty(x, {rows, positions, k}, ScalarType::Long);
  Tensor gates = new_empty(x, {rows, positions, k}, ScalarType::Float);
  Tensor load = new_zeros(x, {positions, experts}, ScalarType::Long);
  int64_t* to = chosen.mutable_data_ptr<int64_t>();
  float* gates_to = gates.mutable_data_ptr<float>();
  int64_t* load_to = load.mutable_data_ptr<int64_t>();
  const int64_t size = RECENGINE_PICK(router_size)(width, experts);
  const Scratch packed(positions * size + 1);
  for (int64_t t = 0; t < positions; ++t) RECENGINE_PICK(router_pack)(router_of(router, t), width, experts, packed.get() + t * size);
  constexpr int64_t block = 32;  // rows, of all positions: memory is read as it lies
  const auto route = RECENGINE_PICK(route_rows);
  std::mutex adding;
  parallel_for(0, (rows + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
    const Scratch own(RECENGINE_PICK(route_scratch)(width, experts));
    std::vector<int64_t> counted(static_cast<size_t>(positions * experts), 0);
    for (int64_t b = begin * block; b < std::min(rows, end * block); b += block) {
      const int64_t last = std::min(rows, b + block);
      for (int64_t t = 0; t < positions; ++t) {
        const Router r{position(x, t), packed.get() + t * size, rows, width, experts, k};
        route(r, b, last, positions * k, to + t * k, gates_to + t * k, own.get());
        int64_t* count = counted.data() + t * experts;
        for (int64_t row = b; row < last; ++row)
          for (int64_t j = 0; j < k; ++j) ++count[to[(row * positions + t) * k + j]];
      }
    }
    const std::lock_guard<std::mutex> alone(adding);
    for (int64_t i = 0; i < positions * experts; ++i) load_to[i] += counted[static_cast<size_t>(i)];
  });
  return {gates, chosen, load};
}

void check_choice(const char* op, const Tensor& x, const Tensor& experts, const Tensor& gates, int64_t count) {
  check_dim(op, "experts", experts, 3);
  check_dim(op, "gates", gates, 3);
  for (int64_t axis : {0, 1}) check_size(op, "experts", experts, axis, x.size(axis));
  for (int64_t axis : {0, 1, 2}) check_size(op, "gates", gates, axis, experts.size(axis));
  check_dtype(op, "experts", experts, ScalarType::Long, "int64");
  check_dtype(op, "gates", gates, ScalarType::Float, "float32");
  RECENGINE_CHECK(experts.is_cpu() && gates.is_cpu(), op, ": experts and gates must be on the CPU as x is");
  const int64_t* e = experts.const_data_ptr<int64_t>();
  const int64_t rows = experts.size(0), positions = experts.size(1), k = experts.size(2);
  const int64_t step[] = {experts.stride(0), experts.stride(1), experts.stride(2)};
  if (experts.is_contiguous()) {
    std::atomic<bool> fine{true};
    parallel_for(0, experts.numel(), 16384, [&](int64_t begin, int64_t end) {
      bool own = true;
      for (int64_t i = begin; i < end; ++i) own &= static_cast<uint64_t>(e[i]) < static_cast<uint64_t>(count);
      if (!own) fine = false;
    });
    if (fine) return;
  }
  for (int64_t b = 0; b < rows; ++b)
    for (int64_t t = 0; t < positions; ++t)
      for (int64_t j = 0; j < k; ++j) {
        const int64_t id = e[b * step[0] + t * step[1] + j * step[2]];
        RECENGINE_CHECK(id >= 0 && id < count, op, ": experts[", b, ", ", t, ", ", j, "] is ", id, ", expected 0 to ",
                        count - 1);
      }
}

std::tuple<Tensor, Tensor> moe_route_backward(const Tensor& gates_grad, const Tensor& x, const Tensor& router,
                                              const Tensor& experts, const Tensor& gates) {
  const char* op = "moe_route_backward";
  check_router(op, x, router);
  check_choice(op, x, experts, gates, router.size(2));
  check_dtype(op, "gates_grad", gates_grad, ScalarType::Float, "float32");
  for (int64_t axis : {0, 1, 2}) check_size(op, "gates_grad", gates_grad, axis, gates.size(axis));
  const int64_t rows = x.size(0), positions = x.size(1), width = x.size(2), count = router.size(2), k = gates.size(2);
  const Tensor chosen = torch::stable::contiguous(experts), weights = torch::stable::contiguous(gates);
  const Tensor upstream = torch::stable::contiguous(gates_grad);
  Tensor x_sum = large_empty(x, {rows, positions, width}, ScalarType::Float);
  Tensor router_sum = new_empty(router, {positions, width, count}, ScalarType::Float);
  float *x_to = x_sum.mutable_data_ptr<float>(), *router_to = router_sum.mutable_data_ptr<float>();
  const int64_t line = RECENGINE_PICK(router_line)(width), step = positions * k;
  parallel_for(0, positions, 1, [&](int64_t begin, int64_t end) {
    const Scratch packed(count * line + 1), change(count * line + 1), own(2 * line + 1);
    for (int64_t t = begin; t < end; ++t) {
      RECENGINE_PICK(router_pack_across)(router_of(router, t), width, count, packed.get());
      std::fill_n(change.get(), count * line, 0.f);
      const Router r{position(x, t), packed.get(), rows, width, count, k};
      RECENGINE_PICK(route_backward)(r, step, chosen.const_data_ptr<int64_t>() + t * k, weights.const_data_ptr<float>() + t * k,
                                     upstream.const_data_ptr<float>() + t * k, x_to + t * width, positions * width,
                                     change.get(), own.get());
      for (int64_t d = 0; d < width; ++d)
        for (int64_t e = 0; e < count; ++e) router_to[(t * width + d) * count + e] = change.get()[e * line + d];
    }
  });
  return {is_bf16(x) ? torch::stable::to(x_sum, ScalarType::BFloat16) : x_sum,
          is_bf16(router) ? torch::stable::to(router_sum, ScalarType::BFloat16) : router_sum};
}

// --- experts

struct Bank {  // [T, E, D, F], [T, E, D, F], [T, E, F, D]
  const Tensor &gate, &up, &down;
  const float* packed = nullptr;
  int64_t packed_step = 0;

  int64_t experts() const { return gate.size(1); }
  int64_t hidden() const { return gate.size(3); }
  bool bf16() const { return is_bf16(gate) && is_bf16(up) && is_bf16(down); }
  Expert at(int64_t t, int64_t e) const {
    const float* own = packed ? packed + (t * experts() + e) * packed_step : nullptr;
    return {bank(gate, t, e), bank(up, t, e), bank(down, t, e), own, gate.size(2), hidden()};
  }
};

void check_bank(const char* op, const char* kind, const Bank& b) {
  const std::string prefix = kind;
  const std::string gate = prefix + "gate", up = prefix + "up", down = prefix + "down";
  for (const auto& [name, w] : {std::pair<const std::string&, const Tensor&>{gate, b.gate}, {up, b.up}, {down, b.down}}) {
    check_dim(op, name.c_str(), w, 4);
    check_float_or_bf16(op, name.c_str(), w);
    RECENGINE_CHECK(w.is_cpu(), op, ": ", name, " must be on the CPU");
    check_size(op, name.c_str(), w, 0, b.gate.size(0));
    check_size(op, name.c_str(), w, 1, b.gate.size(1));
  }
  for (int64_t axis : {2, 3}) check_size(op, up.c_str(), b.up, axis, b.gate.size(axis));
  check_size(op, down.c_str(), b.down, 2, b.gate.size(3));
  check_size(op, down.c_str(), b.down, 3, b.gate.size(2));
}

void check_against_x(const char* op, const char* name, const Tensor& x, const Bank& b) {
  check_size(op, name, b.gate, 0, x.size(1));
  check_size(op, name, b.gate, 2, x.size(2));
}

// Rows in flight: what a thread holds of them (about 512 KB a copy) stays in its second-level cache; but 512 at least,
// because an expert's weights are laid out, and their gradients added to, once for all of them.
// Whole groups of 32, because what lies before the activation is kept by such groups.
constexpr int64_t KEPT_ROWS = 32;
int64_t rows_at_once(int64_t width) {
  return std::clamp<int64_t>((int64_t{1} << 17) / std::max<int64_t>(width, 1), 512, 1024) / KEPT_ROWS * KEPT_ROWS;
}

// The rows of one token position sorted by expert, in row order within an expert.
struct Choice {
  std::vector<int64_t> start, next, row, slot;
  std::vector<int32_t> ids;
  std::vector<float> scale;

  void sort(const Tensor& experts, const Tensor& gates, double alpha, int64_t count, int64_t t, int64_t first, int64_t last) {
    const int64_t* e = experts.const_data_ptr<int64_t>() + t * experts.stride(1);
    const float* g = gates.const_data_ptr<float>() + t * gates.stride(1);
    const int64_t k = experts.size(2), step = experts.stride(0), next_id = experts.stride(2);
    const int64_t gate_step = gates.stride(0), next_gate = gates.stride(2);
    start.assign(static_cast<size_t>(count + 1), 0);
    const size_t all = static_cast<size_t>((last - first) * k);
    ids.resize(all), row.resize(all), slot.resize(all), scale.resize(all);
    int32_t* own = ids.data();  // read where they lie apart once only
    for (int64_t b = first; b < last; ++b)
      for (int64_t j = 0; j < k; ++j) *own++ = static_cast<int32_t>(e[b * step + j * next_id]);
    for (const int32_t id : ids) ++start[static_cast<size_t>(id) + 1];
    for (size_t i = 1; i < start.size(); ++i) start[i] += start[i - 1];
    next.assign(start.begin(), start.end() - 1);
    own = ids.data();
    for (int64_t b = first; b < last; ++b)
      for (int64_t j = 0; j < k; ++j) {
        const size_t at = static_cast<size_t>(next[static_cast<size_t>(*own++)]++);
        row[at] = b, slot[at] = j;
        scale[at] = static_cast<float>(alpha) * g[b * gate_step + j * next_gate];
      }
  }
};

// A thread's memory for one call, cut up: it is kept, because fresh pages would have to be cleared in every call.
class Cut {
 public:
  static int64_t size(int64_t floats) { return (floats + 15) / 16 * 16; }
  explicit Cut(std::initializer_list<int64_t> pieces) {
    int64_t all = 0;
    for (const int64_t floats : pieces) all += size(floats);
    at_ = large_worker_memory(all);
  }
  float* take(int64_t floats) {
    float* own = at_;
    at_ += size(floats);
    return own;
  }

 private:
  float* at_;
};

// What both passes are given, checked.
struct Mixture {
  const Tensor& x;
  Bank routed;
  std::optional<Bank> shared;
  const std::optional<Tensor>&experts, &gates;
  double alpha;

  bool bf16() const { return is_bf16(x) && routed.bf16() && (!shared || shared->bf16()); }

  void check(const char* op) const {
    check_dim(op, "x", x, 3);
    check_float_or_bf16(op, "x", x);
    check_bank(op, "", routed);
    check_against_x(op, "gate", x, routed);
    RECENGINE_CHECK(experts.has_value() == gates.has_value(), op, ": experts and gates come together or not at all");
    if (experts)
      check_choice(op, x, *experts, *gates, routed.experts());
    else
      RECENGINE_CHECK(routed.experts() == 1, op, ": gate has ", routed.experts(),
                      " experts a position, expected one where no experts are chosen");
    if (!shared) return;
    check_bank(op, "shared_", *shared);
    check_against_x(op, "shared_gate", x, *shared);
    RECENGINE_CHECK(shared->experts() == 1, op, ": shared_gate has ", shared->experts(), " experts a position, expected 1");
  }

  // Rows that are read more than once (by several experts; going back) are copied side by side first, a block that
  // stays in cache: as they lie, a row of every position in turn, they share few of the cache's sets. bfloat16 rows stay
  // as they are.
  bool copied(const Tensor& rows, bool back) const { return (back || experts) && !is_bf16(rows); }
  Matrix copy(const Tensor& rows, int64_t t, int64_t first, int64_t last, float* to) const {
    return RECENGINE_PICK(copy_rows)(position(rows, t), first, last, rows.size(2), to);
  }
  Matrix block(const Tensor& rows, int64_t t, int64_t first, int64_t last, float* to) const {
    return copied(rows, true) ? copy(rows, t, first, last, to) : position(rows, t);
  }

  // Floats of rows that are prepared for all experts at once: of either bank, where both read rows so, or of none.
  int64_t prepared_size(int64_t rows) const {
    if (!experts || experts->size(2) + (shared ? 1 : 0) < 2) return 0;
    if (shared && is_bf16(x) && routed.bf16() != shared->bf16()) return 0;  // they read rows differently
    const auto of = [&](const Bank& b) { return RECENGINE_PICK(swiglu_prepared_size)(x.size(2), b.hidden(), rows, bf16()); };
    return shared && of(*shared) == 0 ? 0 : of(routed);
  }

  // Floats of scratch for either bank, of which one may be bfloat16 and the other not.
  int64_t scratch(int64_t (*of)(int64_t, int64_t, int64_t, bool), int64_t rows) const {
    int64_t most = 0;
    for (const bool bf16 : {false, true}) {
      most = std::max(most, of(x.size(2), routed.hidden(), rows, bf16));
      if (shared) most = std::max(most, of(x.size(2), shared->hidden(), rows, bf16));
    }
    return most;
  }

  // Whether the first expert works on all rows, so that their sums need not be cleared.
  bool written_first() const { return shared || !experts; }

  // Calls work(bank is the shared one, expert, rows, slots) for the pieces of rows [first, last) of position t: the
  // shared expert first, then the others by id; at most `piece` rows at a time.
  template <class Work>
  void each(int64_t t, int64_t first, int64_t last, int64_t piece, Choice& choice, std::vector<int64_t>& all,
            float* prepared, Work&& work) const {
    if (shared || !experts) {
      all.resize(static_cast<size_t>(last - first));
      for (int64_t b = first; b < last; ++b) all[static_cast<size_t>(b - first)] = b;
      const ExpertRows rows{all.data(), nullptr, last - first, prepared, prepared != nullptr, true};
      if (shared) work(true, int64_t{0}, rows, nullptr);
      if (!experts) work(false, int64_t{0}, {all.data(), nullptr, last - first, nullptr, false, !shared}, nullptr);
    }
    if (!experts) return;
    choice.sort(*experts, *gates, alpha, routed.experts(), t, first, last);
    for (int64_t e = 0; e < routed.experts(); ++e)
      for (int64_t at = choice.start[static_cast<size_t>(e)]; at < choice.start[static_cast<size_t>(e + 1)]; at += piece) {
        const int64_t n = std::min(piece, choice.start[static_cast<size_t>(e + 1)] - at);
        work(false, e, ExpertRows{choice.row.data() + at, choice.scale.data() + at, n, prepared}, choice.slot.data() + at);
      }
  }
};

int64_t groups_of(int64_t rows) { return (rows + KEPT_ROWS - 1) / KEPT_ROWS; }

// What lies before the activation, from the forward pass: [T, floats]. Of a position the routed experts' groups of 32 rows,
// then the shared expert's. A piece of rows has room for the groups of all its choices and for one broken group an expert.
struct Kept {
  float* at = nullptr;
  int64_t rows = 0, piece = 1, choices = 1, experts = 0, group = 0, shared_group = 0, pieces = 0;

  explicit Kept(const Mixture& m)
      : rows(m.x.size(0)), piece(rows_at_once(m.x.size(2))), choices(m.experts ? m.experts->size(2) : 1),
        experts(m.experts ? m.routed.experts() : 0), group(RECENGINE_PICK(swiglu_kept_size)(m.routed.hidden())),
        shared_group(m.shared ? RECENGINE_PICK(swiglu_kept_size)(m.shared->hidden()) : 0), pieces((rows + piece - 1) / piece) {}
  Kept() = default;

  int64_t routed_groups() const { return groups_of(rows * choices) + pieces * experts; }
  int64_t floats() const { return routed_groups() * group + groups_of(rows) * shared_group; }
  Kept on(const Tensor& kept) const {
    Kept own = *this;
    own.at = kept.numel() > 0 ? static_cast<float*>(kept.mutable_data_ptr()) : nullptr;
    return own;
  }

  // Hands out the groups of a piece of rows in the order in which Mixture::each calls for them.
  struct Cursor {
    float *routed = nullptr, *shared = nullptr, *end = nullptr;
    int64_t group = 0;

    ExpertRows of(ExpertRows asked, bool is_shared) {
      if (!routed) return asked;
      asked.kept = is_shared ? shared : routed;
      if (!is_shared) routed += groups_of(asked.count) * group;
      return asked;
    }
    void clear_rest() const {
      if (routed) std::fill(routed, end, 0.f);
    }
  };
  Cursor open(int64_t t, int64_t p) const {
    if (!at) return {};
    const int64_t step = experts + piece * choices / KEPT_ROWS;
    float* position = at + t * floats();
    return {position + p * step * group, position + routed_groups() * group + p * (piece / KEPT_ROWS) * shared_group,
            position + (p + 1 < pieces ? (p + 1) * step : routed_groups()) * group, group};
  }
};

std::optional<Bank> optional_bank(const std::optional<Tensor>& gate, const std::optional<Tensor>& up,
                                  const std::optional<Tensor>& down) {
  RECENGINE_CHECK(gate.has_value() == up.has_value() && up.has_value() == down.has_value(),
                  "grouped_swiglu: shared_gate, shared_up and shared_down come together or not at all");
  if (!gate) return std::nullopt;
  return Bank{*gate, *up, *down};
}

void use_packed(Bank& b, const std::optional<Tensor>& packed, const char* name) {
  if (!packed) return;
  const char* op = "grouped_swiglu";
  b.packed_step = RECENGINE_PICK(swiglu_packed_size)(b.gate.size(2), b.hidden(), b.bf16());
  check_dim(op, name, *packed, 3);
  check_size(op, name, *packed, 0, b.gate.size(0));
  check_size(op, name, *packed, 1, b.experts());
  check_size(op, name, *packed, 2, b.packed_step);
  check_dtype(op, name, *packed, ScalarType::Float, "float32");
  RECENGINE_CHECK(packed->is_contiguous(), op, ": ", name, " must be contiguous, as swiglu_pack made it");
  b.packed = packed->const_data_ptr<float>();
}

// Checked before.
Tensor mixture_forward(const Mixture& m, const Kept& kept) {
  const Tensor& x = m.x;
  const int64_t rows = x.size(0), positions = x.size(1), width = x.size(2);
  Tensor y = large_empty(x, {rows, positions, width});
  const int64_t piece = rows_at_once(width), pieces = (rows + piece - 1) / piece;
  const int64_t wide = RECENGINE_PICK(swiglu_row_size)(width), scratch = m.scratch(RECENGINE_PICK(swiglu_forward_scratch), piece);
  const int64_t prepared_size = m.prepared_size(piece);
  parallel_for(0, positions * pieces, 1, [&](int64_t begin, int64_t end) {
    const bool copied = prepared_size == 0 && m.copied(x, false);
    const int64_t sums = piece * wide, copies = copied ? piece * width : 0;
    Cut memory{scratch, sums, copies, prepared_size};
    float *own = memory.take(scratch), *sum = memory.take(sums), *copy = memory.take(copies), *prepared = memory.take(prepared_size);
    Choice choice;
    std::vector<int64_t> all;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t t = task / pieces, first = task % pieces * piece, last = std::min(rows, first + piece);
      const Matrix block = copied ? m.copy(x, t, first, last, copy) : position(x, t);
      if (prepared_size && !m.shared) RECENGINE_PICK(swiglu_prepare)(block, first, last, width, prepared);
      if (!m.written_first()) std::fill_n(sum, (last - first) * wide, 0.f);
      Kept::Cursor cursor = kept.open(t, task % pieces);
      m.each(t, first, last, piece, choice, all, prepared_size ? prepared : nullptr, [&](bool shared, int64_t e, const ExpertRows& r, const int64_t*) {
        RECENGINE_PICK(swiglu_forward)((shared ? *m.shared : m.routed).at(t, e), block, cursor.of(r, shared), first, sum, own);
      });
      cursor.clear_rest();
      RECENGINE_PICK(write_rows)(sum, first, last, width, mutable_position(y, t));
    }
  });
  return y;
}

Tensor grouped_swiglu(const Tensor& x, const Tensor& gate, const Tensor& up, const Tensor& down,
                      const std::optional<Tensor>& experts, const std::optional<Tensor>& gates,
                      const std::optional<Tensor>& shared_gate, const std::optional<Tensor>& shared_up,
                      const std::optional<Tensor>& shared_down, double alpha, const std::optional<Tensor>& packed,
                      const std::optional<Tensor>& shared_packed) {
  Mixture m{x, Bank{gate, up, down}, optional_bank(shared_gate, shared_up, shared_down), experts, gates, alpha};
  m.check("grouped_swiglu");
  use_packed(m.routed, packed, "packed");
  if (m.shared) use_packed(*m.shared, shared_packed, "shared_packed");
  return mixture_forward(m, {});
}

std::tuple<Tensor, Tensor> learning_swiglu(const Tensor& x, const Tensor& gate, const Tensor& up, const Tensor& down,
                                           const std::optional<Tensor>& experts, const std::optional<Tensor>& gates,
                                           const std::optional<Tensor>& shared_gate, const std::optional<Tensor>& shared_up,
                                           const std::optional<Tensor>& shared_down, double alpha) {
  const Mixture m{x, Bank{gate, up, down}, optional_bank(shared_gate, shared_up, shared_down), experts, gates, alpha};
  m.check("learning_swiglu");
  const Kept shape(m);
  Tensor kept = large_empty(x, {x.size(1), shape.floats()}, ScalarType::Float);
  return {mixture_forward(m, shape.on(kept)), kept};
}

// Weight gradients: float32, one copy a part of the rows, summed in order. bfloat16 weights whose rows are one part
// get theirs rounded as soon as a position is done, from sums that a thread keeps for one position.
struct Sums {
  Tensor gate, up, down;
  int64_t step, size, experts;  // floats: of a part, of one expert's matrix
  bool rounded;

  Sums(const Bank& b, int64_t parts)
      : step(b.gate.numel()), size(b.gate.size(2) * b.hidden()), experts(b.experts()), rounded(parts == 1 && b.bf16()) {
    const int64_t t = b.gate.size(0), e = b.experts(), d = b.gate.size(2), f = b.hidden();
    const ScalarType type = rounded ? ScalarType::BFloat16 : ScalarType::Float;
    gate = large_empty(b.gate, {parts, t, e, d, f}, type);
    up = large_empty(b.gate, {parts, t, e, d, f}, type);
    down = large_empty(b.gate, {parts, t, e, f, d}, type);
  }
  int64_t own_size() const { return rounded ? 3 * experts * size : 0; }
  ExpertGradient at(int64_t part, int64_t t, int64_t e, bool fresh, float* own) const {
    if (rounded) return {own + e * size, own + (experts + e) * size, own + (2 * experts + e) * size, fresh};
    const int64_t offset = part * step + (t * experts + e) * size;
    const auto to = [offset](const Tensor& sums) { return sums.mutable_data_ptr<float>() + offset; };
    return {to(gate), to(up), to(down), fresh};
  }
  void clear(int64_t part, int64_t t, int64_t e, float* own) const {
    const ExpertGradient g = at(part, t, e, true, own);
    for (float* p : {g.gate, g.up, g.down}) std::fill_n(p, size, 0.f);
  }
  void round(int64_t t, const float* own) const {
    if (!rounded) return;
    for (const Tensor* to : {&gate, &up, &down}) {
      RECENGINE_PICK(round_past)(own, experts * size, static_cast<uint16_t*>(to->mutable_data_ptr()) + t * experts * size);
      own += experts * size;
    }
  }
  Tensor finish(const Tensor& sums, const Tensor& like) const {
    const Tensor first = torch::stable::select(sums, 0, 0);
    if (rounded) return first;
    const int64_t parts = sums.size(0);
    float* to = sums.mutable_data_ptr<float>();
    if (parts > 1)
      parallel_for(0, step, 4096, [&](int64_t begin, int64_t end) {
        for (int64_t p = 1; p < parts; ++p)
          for (int64_t i = begin; i < end; ++i) to[i] += to[p * step + i];
      });
    return is_bf16(like) ? torch::stable::to(first, ScalarType::BFloat16) : parts > 1 ? torch::stable::clone(first) : first;
  }
};

struct MixtureGradients {
  Tensor x, gates;
  Sums routed;
  std::optional<Sums> shared;
};

MixtureGradients mixture_backward(const char* op, const Mixture& m, const Tensor& grad, const Kept& kept) {
  const Tensor& x = m.x;
  const std::optional<Tensor>& gates = m.gates;
  check_dim(op, "grad", grad, 3);
  for (int64_t axis : {0, 1, 2}) check_size(op, "grad", grad, axis, x.size(axis));
  check_float_or_bf16(op, "grad", grad);
  const int64_t rows = x.size(0), positions = x.size(1), width = x.size(2), k = gates ? gates->size(2) : 0;
  const int64_t piece = rows_at_once(width), pieces = (rows + piece - 1) / piece;
  // A token position's weights belong to one task. Few positions: their rows are cut into parts, a matter of
  // shapes only, each with sums of its own.
  const int64_t parts = std::clamp<int64_t>(16 / std::max<int64_t>(positions, 1), 1, std::max<int64_t>(pieces, 1));
  Tensor x_grad = large_empty(x, {rows, positions, width});
  Tensor gates_grad = new_zeros(x, {gates ? rows : 0, positions, k}, ScalarType::Float);
  float* gates_to = gates_grad.mutable_data_ptr<float>();
  Sums routed(m.routed, parts);
  std::optional<Sums> shared;
  if (m.shared) shared.emplace(*m.shared, parts);
  const int64_t wide = RECENGINE_PICK(swiglu_row_size)(width), scratch = m.scratch(RECENGINE_PICK(swiglu_backward_scratch), piece);
  parallel_for(0, positions * parts, 1, [&](int64_t begin, int64_t end) {
    const int64_t sums = piece * wide, shared_sums = shared ? shared->own_size() : 0;
    const int64_t x_copies = m.copied(x, true) ? piece * width : 0, grad_copies = m.copied(grad, true) ? piece * width : 0;
    Cut memory{scratch, sums, piece, routed.own_size(), shared_sums, x_copies, grad_copies};
    float *own = memory.take(scratch), *sum = memory.take(sums), *products = memory.take(piece);
    float *own_sums = memory.take(routed.own_size()), *own_shared = memory.take(shared_sums);
    float *x_copy = memory.take(x_copies), *grad_copy = memory.take(grad_copies);
    Choice choice;
    std::vector<int64_t> all;
    std::vector<bool> seen;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t t = task / parts, part = task % parts;
      seen.assign(static_cast<size_t>(m.routed.experts() + 1), false);  // the shared one last
      for (int64_t p = pieces * part / parts; p < pieces * (part + 1) / parts; ++p) {
        const int64_t first = p * piece, last = std::min(rows, first + piece);
        const Matrix x_block = m.block(x, t, first, last, x_copy), grad_block = m.block(grad, t, first, last, grad_copy);
        if (!m.written_first()) std::fill_n(sum, (last - first) * wide, 0.f);
        Kept::Cursor cursor = kept.open(t, p);
        m.each(t, first, last, piece, choice, all, nullptr, [&](bool is_shared, int64_t e, const ExpertRows& r, const int64_t* slot) {
          const Bank& b = is_shared ? *m.shared : m.routed;
          auto known = seen[static_cast<size_t>(is_shared ? m.routed.experts() : e)];
          RECENGINE_PICK(swiglu_backward)(b.at(t, e), x_block, grad_block, cursor.of(r, is_shared), first, sum,
                                          (is_shared ? *shared : routed).at(part, t, e, !known, is_shared ? own_shared : own_sums),
                                          slot ? products : nullptr, own);
          known = true;
          for (int64_t i = 0; slot && i < r.count; ++i)
            gates_to[(r.index[i] * positions + t) * k + slot[i]] = static_cast<float>(m.alpha) * products[i];
        });
        RECENGINE_PICK(write_rows)(sum, first, last, width, mutable_position(x_grad, t));
      }
      for (int64_t e = 0; e < m.routed.experts(); ++e)
        if (!seen[static_cast<size_t>(e)]) routed.clear(part, t, e, own_sums);
      if (shared && !seen.back()) shared->clear(part, t, 0, own_shared);
      routed.round(t, own_sums);
      if (shared) shared->round(t, own_shared);
    }
  });
  return {x_grad, gates_grad, routed, shared};
}

using AllGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

AllGradients finished(const Mixture& m, const MixtureGradients& made) {
  const Sums& routed = made.routed;
  const std::optional<Sums>& shared = made.shared;
  const auto none = [&] { return new_empty(m.x, {0}, ScalarType::Float); };  // one each: results must not share memory
  return {made.x,
          routed.finish(routed.gate, m.routed.gate),
          routed.finish(routed.up, m.routed.up),
          routed.finish(routed.down, m.routed.down),
          made.gates,
          shared ? shared->finish(shared->gate, m.shared->gate) : none(),
          shared ? shared->finish(shared->up, m.shared->up) : none(),
          shared ? shared->finish(shared->down, m.shared->down) : none()};
}

AllGradients grouped_swiglu_backward(const Tensor& grad, const Tensor& x, const Tensor& gate, const Tensor& up,
                                     const Tensor& down, const std::optional<Tensor>& experts,
                                     const std::optional<Tensor>& gates, const std::optional<Tensor>& shared_gate,
                                     const std::optional<Tensor>& shared_up, const std::optional<Tensor>& shared_down,
                                     double alpha) {
  const char* op = "grouped_swiglu_backward";
  const Mixture m{x, Bank{gate, up, down}, optional_bank(shared_gate, shared_up, shared_down), experts, gates, alpha};
  m.check(op);
  return finished(m, mixture_backward(op, m, grad, {}));
}

AllGradients learning_swiglu_backward(const Tensor& grad, const Tensor& kept, const Tensor& x, const Tensor& gate,
                                      const Tensor& up, const Tensor& down, const std::optional<Tensor>& experts,
                                      const std::optional<Tensor>& gates, const std::optional<Tensor>& shared_gate,
                                      const std::optional<Tensor>& shared_up, const std::optional<Tensor>& shared_down,
                                      double alpha) {
  const char* op = "learning_swiglu_backward";
  const Mixture m{x, Bank{gate, up, down}, optional_bank(shared_gate, shared_up, shared_down), experts, gates, alpha};
  m.check(op);
  const Kept shape(m);
  check_dim(op, "kept", kept, 2);
  check_size(op, "kept", kept, 0, x.size(1));
  check_size(op, "kept", kept, 1, shape.floats());
  check_dtype(op, "kept", kept, ScalarType::Float, "float32");
  RECENGINE_CHECK(kept.is_cpu() && kept.is_contiguous(), op,
                  ": kept must be on the CPU and contiguous, as learning_swiglu made it");
  return finished(m, mixture_backward(op, m, grad, shape.on(kept)));
}

Tensor swiglu_pack(const Tensor& gate, const Tensor& up, const Tensor& down) {
  const Bank b{gate, up, down};
  check_bank("swiglu_pack", "", b);
  const int64_t size = RECENGINE_PICK(swiglu_packed_size)(gate.size(2), gate.size(3), b.bf16());
  Tensor packed = large_empty(gate, {gate.size(0), gate.size(1), size}, ScalarType::Float);
  float* to = packed.mutable_data_ptr<float>();
  parallel_for(0, gate.size(0) * gate.size(1), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) RECENGINE_PICK(swiglu_pack)(b.at(i / b.experts(), i % b.experts()), to + i * size);
  });
  return packed;
}

}  // namespace
}  // namespace recengine

STABLE_TORCH_LIBRARY_IMPL(recengine, CPU, m) {
  m.impl("moe_route", TORCH_BOX(&recengine::moe_route));
  m.impl("moe_route_backward", TORCH_BOX(&recengine::moe_route_backward));
  m.impl("grouped_swiglu", TORCH_BOX(&recengine::grouped_swiglu));
  m.impl("grouped_swiglu_backward", TORCH_BOX(&recengine::grouped_swiglu_backward));
  m.impl("learning_swiglu", TORCH_BOX(&recengine::learning_swiglu));
  m.impl("learning_swiglu_backward", TORCH_BOX(&recengine::learning_swiglu_backward));
  m.impl("swiglu_pack", TORCH_BOX(&recengine::swiglu_pack));
}
