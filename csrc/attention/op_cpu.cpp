#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "attention/attention.h"
#include "common/checks.h"
#include "common/pages.h"
#include "common/worker_memory.h"

namespace recengine {
namespace {

// n^-sigmoid(m) with n the valid positions that the query sees (length), all of the sequence (sequence),
// or those that the key's own prefix holds (key_prefix).
enum class Scale { one, sqrt_d, length, sequence, key_prefix };

struct Call {
  std::optional<Tensor> m;
  bool causal, elu, bf16, varlen;
  Scale scale;
  int64_t sequences, positions, heads, d;  // positions: S, or T when the sequences are packed
  int64_t longest;
  const uint8_t* valid;  // mask
  int64_t valid_row, valid_step;
  const int64_t* length;
  int64_t length_step;
  const int64_t* offset;  // cu_seqlens
};

Scale parse_scale(const char* op, const std::string& name, bool causal) {
  if (name == "one") return Scale::one;
  if (name == "sqrt_d") return Scale::sqrt_d;
  if (name == "length") return Scale::length;
  RECENGINE_CHECK(name == "sequence" || name == "key_prefix", op,
                  ": scale must be one, sqrt_d, length, sequence or key_prefix, found ", name);
  if (name == "sequence") return Scale::sequence;
  RECENGINE_CHECK(causal, op, ": scale key_prefix needs causal=True");
  return Scale::key_prefix;
}

bool powered(Scale s) { return s == Scale::length || s == Scale::sequence || s == Scale::key_prefix; }

const int64_t* longs(const std::optional<Tensor>& t) { return static_cast<const int64_t*>(t->const_data_ptr()); }

Call check(const char* op, const Tensor& qkv, const std::optional<Tensor>& mask, const std::optional<Tensor>& lengths,
           const std::optional<Tensor>& offsets, const std::optional<Tensor>& m, bool causal,
           const std::string& activation, const std::string& scale, const char* name = "qkv", int64_t parts = 3) {
  Call c{m, causal, activation == "elu", false, offsets.has_value(),
         parse_scale(op, scale, causal)};
  RECENGINE_CHECK(activation == "none" || activation == "elu", op, ": activation must be none or elu, found ",
                  activation);
  const int64_t lead = c.varlen ? 1 : 2;
  check_dim(op, name, qkv, lead + 3);
  check_size(op, name, qkv, lead, parts);
  c.bf16 = qkv.scalar_type() == ScalarType::BFloat16;
  RECENGINE_CHECK(c.bf16 || qkv.scalar_type() == ScalarType::Float, op, ": ", name, " must be float32 or bfloat16, found ",
                  dtype_name(qkv));
  c.sequences = c.varlen ? std::max<int64_t>(offsets->numel() - 1, 0) : qkv.size(0);
  c.positions = qkv.size(lead - 1);
  c.heads = qkv.size(lead + 1);
  c.d = qkv.size(lead + 2);
  c.longest = c.positions;
  RECENGINE_CHECK(c.d >= 1 && c.d <= ATTENTION_MAX_D, op, ": ", name, " has heads of size ", c.d,
                  ", expected 1 to ", ATTENTION_MAX_D);
  RECENGINE_CHECK(int(mask.has_value()) + int(lengths.has_value()) + int(c.varlen) <= 1, op,
                  ": give at most one of mask, lengths and cu_seqlens");
  if (mask) {
    check_dim(op, "mask", *mask, 2);
    check_size(op, "mask", *mask, 0, c.sequences);
    check_size(op, "mask", *mask, 1, c.positions);
    check_dtype(op, "mask", *mask, ScalarType::Bool, "bool");
    c.valid = static_cast<const uint8_t*>(mask->const_data_ptr());
    c.valid_row = mask->stride(0);
    c.valid_step = mask->stride(1);
  }
  if (lengths) {
    check_dim(op, "lengths", *lengths, 1);
    check_size(op, "lengths", *lengths, 0, c.sequences);
    check_dtype(op, "lengths", *lengths, ScalarType::Long, "int64");
    c.length = longs(lengths);
    c.length_step = lengths->stride(0);
    for (int64_t b = 0; b < c.sequences; ++b) {
      const int64_t n = c.length[b * c.length_step];
      RECENGINE_CHECK(n >= 0 && n <= c.positions, op, ": lengths[", b, "] is ", n, ", expected 0 to ", c.positions);
    }
  }
  if (c.varlen) {
    check_dim(op, "cu_seqlens", *offsets, 1);
    check_dtype(op, "cu_seqlens", *offsets, ScalarType::Long, "int64");
    RECENGINE_CHECK(offsets->numel() >= 1 && (offsets->numel() == 1 || offsets->stride(0) == 1), op,
                    ": cu_seqlens must be contiguous and have at least one element");
    const int64_t* o = c.offset = longs(offsets);
    RECENGINE_CHECK(o[0] == 0 && o[c.sequences] == c.positions, op, ": cu_seqlens must run from 0 to ", c.positions,
                    ", found ", o[0], " and ", o[c.sequences]);
    c.longest = 0;
    for (int64_t b = 0; b < c.sequences; ++b) {
      RECENGINE_CHECK(o[b] <= o[b + 1], op, ": cu_seqlens falls at ", b + 1);
      c.longest = std::max(c.longest, o[b + 1] - o[b]);
    }
  }
  RECENGINE_CHECK(m.has_value() == powered(c.scale), op, ": m must be ", powered(c.scale) ? "given" : "left out",
                  " for scale ", scale);
  if (m) {
    check_dim(op, "m", *m, 1);
    check_size(op, "m", *m, 0, c.heads);
    check_dtype(op, "m", *m, ScalarType::Float, "float32");
  }
  return c;
}

double read_exponent(const Call& c, int64_t head) {
  const float m = static_cast<const float*>(c.m->const_data_ptr())[head * c.m->stride(0)];
  return 1.0 / (1.0 + std::exp(-static_cast<double>(m)));
}

// The heads' exponents; and scales by number of valid positions, for causal heads whose scale moves along the
// sequence.
struct Tables {
  std::vector<double> exponent;  // by head: sigmoid(m)
  std::vector<float> scale, log_count;
};
Tables tables(const Call& c) {
  Tables t;
  for (int64_t h = 0; powered(c.scale) && h < c.heads; ++h) t.exponent.push_back(read_exponent(c, h));
  if (!(c.causal && (c.scale == Scale::length || c.scale == Scale::key_prefix))) return t;
  t.log_count.resize(c.longest + 1, 0.f);
  for (int64_t n = 2; n <= c.longest; ++n) t.log_count[n] = static_cast<float>(std::log(static_cast<double>(n)));
  t.scale.resize(c.heads * (c.longest + 1), 1.f);
  for (int64_t h = 0; h < c.heads; ++h)
    for (int64_t n = 2; n <= c.longest; ++n)
      t.scale[h * (c.longest + 1) + n] =
          static_cast<float>(std::exp(-t.exponent[h] * std::log(static_cast<double>(n))));
  return t;
}

// Address and strides of a tensor, read once a call: every question to a stable tensor goes through a shim.
struct View {
  char* data = nullptr;
  int64_t sequence = 0, row = 0, part = 0, head = 0, elem = 0;
  int64_t whole = 0;  // elements of a row that lies in one piece, else 0
};
View view(const Call& c, const Tensor& x, bool packed) {
  const int64_t lead = c.varlen ? 1 : 2, behind = packed ? lead + 1 : lead;
  View v{static_cast<char*>(const_cast<void*>(x.const_data_ptr())),
         c.varlen ? 0 : x.stride(0),
         x.stride(lead - 1),
         packed ? x.stride(lead) : 0,
         x.stride(behind),
         x.stride(behind + 1)};
  if (v.elem == 1 && v.head == c.d && (!packed || v.part == c.heads * c.d)) v.whole = (packed ? 3 : 1) * c.heads * c.d;
  return v;
}

struct Views {
  View qkv, out, grad, dqkv;
  bool forward;
};

// A head's share of the valid rows of the sequence behind its own. Sequences too long to wait in the second-level
// cache are not fetched so.
constexpr int64_t MOST_AHEAD = 512 * 1024;

void share_next(const Call& c, int64_t b, int64_t hd, const Views& views, AttentionHead& h) {
  if (++b >= c.sequences) return;
  const int64_t start = c.varlen ? c.offset[b] : 0, size = c.bf16 ? 2 : 4;
  int64_t first = 0, last = c.length ? c.length[b * c.length_step] : c.varlen ? c.offset[b + 1] - start : c.positions;
  if (c.valid) {
    const uint8_t* valid = c.valid + b * c.valid_row;
    while (last > 0 && !valid[(last - 1) * c.valid_step]) --last;
    while (first < last && !valid[first * c.valid_step]) ++first;
  }
  if ((last - first) * views.qkv.whole * size > MOST_AHEAD) return;
  const int64_t from = first + (last - first) * hd / c.heads, to = first + (last - first) * (hd + 1) / c.heads;
  const auto share = [&](const View& x) {
    return AttentionShare{x.data + (b * x.sequence + (start + from) * x.row) * size, x.whole ? to - from : 0,
                          x.row * size, x.whole * size};
  };
  h.next_in = share(views.qkv);
  h.next_out = share(views.forward ? views.out : views.dqkv);
  if (!views.forward) h.next_grad = share(views.grad);
}

// Sets the scale of a head all of whose queries have the same one (the others': 1); returns what the gradient of its
// exponent is multiplied by.
double set_scale(const Call& c, const Tables& t, int64_t hd, int64_t valid, AttentionHead& h) {
  h.scale = c.scale == Scale::sqrt_d ? static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.d))) : 1.f;
  if (!powered(c.scale) || !t.scale.empty()) return 1.0;
  const double ln = valid > 1 ? std::log(static_cast<double>(valid)) : 0.0;
  h.scale = static_cast<float>(std::exp(-t.exponent[hd] * ln));
  return ln;
}

// dm of the units' sums, each multiplied by its logarithm.
void sum_exponents(const Call& c, const Tables& t, const std::vector<double>& weighted, Tensor& dm) {
  if (!c.m) return;
  float* d = static_cast<float*>(dm.mutable_data_ptr());
  for (int64_t h = 0; h < c.heads; ++h) {
    double sum = 0;
    for (int64_t b = 0; b < c.sequences; ++b) sum += weighted[b * c.heads + h];
    const double s = t.exponent[h];
    d[h] = static_cast<float>(-s * (1.0 - s) * sum);
  }
}

// The head, trimmed; `logarithm` is what the gradient of its exponent is multiplied by.
AttentionHead head(const Call& c, const Tables& t, int64_t unit, const Views& views, double* logarithm) {
  const int64_t b = unit / c.heads, hd = unit % c.heads, size = c.bf16 ? 2 : 4;
  const int64_t start = c.varlen ? c.offset[b] : 0;
  const auto at = [&](const View& x, int64_t part) {
    return x.data + (b * x.sequence + start * x.row + part * x.part + hd * x.head) * size;
  };
  AttentionHead h{};
  h.q = at(views.qkv, 0);
  h.k = at(views.qkv, 1);
  h.v = at(views.qkv, 2);
  h.row = h.q_row = views.qkv.row;
  h.elem = h.q_elem = views.qkv.elem;
  if (views.forward) {
    h.out = at(views.out, 0);
    h.out_row = views.out.row;
  } else {
    h.grad = at(views.grad, 0);
    h.grad_row = views.grad.row;
    h.grad_elem = views.grad.elem;
    h.dq = at(views.dqkv, 0);
    h.dk = at(views.dqkv, 1);
    h.dv = at(views.dqkv, 2);
    h.d_row = h.dq_row = views.dqkv.row;
  }
  if (c.valid) {
    h.mask = c.valid + b * c.valid_row;
    h.mask_step = c.valid_step;
  }
  share_next(c, b, hd, views, h);
  h.n = h.asked = c.varlen ? c.offset[b + 1] - start : c.positions;
  h.limit = c.length ? c.length[b * c.length_step] : h.n;
  h.d = c.d;
  h.elu = c.elu;
  h.bf16 = c.bf16;
  h.causal = c.causal;
  if (!t.scale.empty()) {
    h.by_count = t.scale.data() + hd * (c.longest + 1);
    h.log_count = t.log_count.data();
    h.on_key = c.scale == Scale::key_prefix;
  }
  const int64_t valid = RECENGINE_PICK(attention_trim)(h, !views.forward);
  const double ln = set_scale(c, t, hd, valid, h);
  if (logarithm) *logarithm = ln;
  return h;
}

int64_t sections(int64_t n) { return (n + ATTENTION_SECTION - 1) / ATTENTION_SECTION; }

// Calls body(section, begin, end) in order.
template <class Body>
void each_section(int64_t n, Body&& body) {
  for (int64_t s = 0; s < sections(n); ++s)
    body(s, s * ATTENTION_SECTION, std::min(n, (s + 1) * ATTENTION_SECTION));
}

void add(float* sum, const float* other, int64_t n) {
  for (int64_t i = 0; i < n; ++i) sum[i] += other[i];
}

template <class Body>
void over(int64_t n, Body&& body) {
  torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

// --- one head by one thread

// total = k^T v of the whole head; `own` and `work` are scratch.
void sum_of_sections(const AttentionHead& h, float* total, float* own, float* work) {
  const int64_t dp = padded16(h.d), square = dp * dp;
  std::memset(total, 0, sizeof(float) * square);
  each_section(h.n, [&](int64_t s, int64_t begin, int64_t end) {
    if (s) std::memset(own, 0, sizeof(float) * square);
    RECENGINE_PICK(attention_state)(h, begin, end, s ? own : total, work);
    if (s) add(total, own, square);
  });
}

void forward_head(const AttentionHead& h, float* state) {
  const int64_t dp = padded16(h.d), square = dp * dp;
  float* work = worker_memory(attention_scratch(h.d) + 2 * square);
  float *own = work, *total = state ? state : work + square;
  work += 2 * square;
  std::memset(total, 0, sizeof(float) * square);
  if (h.n == 0) return;
  if (h.causal) {
    each_section(h.n, [&](int64_t, int64_t begin, int64_t end) {
      RECENGINE_PICK(attention_causal_forward)(h, begin, end, total, own, work);
      add(total, own, square);
    });
  } else if (attention_square(h.n, h.asked, h.d, false)) {
    RECENGINE_PICK(attention_square_forward)(h, work);
  } else {
    sum_of_sections(h, total, own, work);
    RECENGINE_PICK(attention_apply)(h, 0, h.asked, total, work);
  }
}

// state null: the bidirectional sum was not kept, and is made again.
double backward_head(const AttentionHead& h, const float* state) {
  if (h.n == 0) return 0.0;
  const int64_t dp = padded16(h.d), square = dp * dp;
  float* work = worker_memory(attention_scratch(h.d) + 3 * square);
  float *own = work, *total = work + square, *again = work + 2 * square;
  work += 3 * square;
  if (attention_square(h.n, h.asked, h.d, h.causal)) return RECENGINE_PICK(attention_square_backward)(h, work);
  double weighted = 0;
  std::memset(total, 0, sizeof(float) * square);
  if (h.causal) {
    each_section(h.n, [&](int64_t, int64_t begin, int64_t end) {
      weighted += RECENGINE_PICK(attention_causal_query_backward)(h, begin, end, total, own, work);
      add(total, own, square);
    });
    std::memset(total, 0, sizeof(float) * square);
    for (int64_t s = sections(h.n) - 1; s >= 0; --s) {
      const int64_t begin = s * ATTENTION_SECTION, end = std::min(h.n, begin + ATTENTION_SECTION);
      weighted += RECENGINE_PICK(attention_causal_key_backward)(h, begin, end, total, own, work);
      add(total, own, square);
    }
  } else {
    if (!state) {
      sum_of_sections(h, again, own, work);
      state = again;
    }
    each_section(h.asked, [&](int64_t s, int64_t begin, int64_t end) {
      if (s) std::memset(own, 0, sizeof(float) * square);
      weighted += RECENGINE_PICK(attention_query_backward)(h, begin, end, state, s ? own : total, work);
      if (s) add(total, own, square);
    });
    RECENGINE_PICK(attention_key_backward)(h, 0, h.n, total, work);
  }
  return weighted;
}

// --- one head by several threads: the sections' sums first, then every section on its own. The same
// operations in the same order as above, so the same bits.

// sums[s] becomes what section s starts from; `reversed`: what lies behind it.
void exclusive(std::vector<float>& sums, int64_t n, int64_t square, bool reversed, float* total) {
  std::memset(total, 0, sizeof(float) * square);
  std::vector<float> own(square);
  for (int64_t i = 0; i < n; ++i) {
    float* slot = sums.data() + (reversed ? n - 1 - i : i) * square;
    std::copy_n(slot, square, own.data());
    std::copy_n(total, square, slot);
    add(total, own.data(), square);
  }
}

// k^T v of the whole head, not causal.
std::vector<float> shared_state(const AttentionHead& h) {
  const int64_t dp = padded16(h.d), square = dp * dp, count = sections(h.n);
  std::vector<float> sums(count * square, 0.f), total(square);
  over(count, [&](int64_t s) {
    RECENGINE_PICK(attention_state)(h, s * ATTENTION_SECTION, std::min(h.n, (s + 1) * ATTENTION_SECTION),
                                    sums.data() + s * square, worker_memory(attention_scratch(h.d)));
  });
  exclusive(sums, count, square, false, total.data());
  return total;
}

void forward_shared(const AttentionHead& h, float* state) {
  const int64_t dp = padded16(h.d), square = dp * dp, count = sections(h.n);
  std::vector<float> sums, total(square);
  const auto range = [&](int64_t s) { return std::min(h.n, (s + 1) * ATTENTION_SECTION); };
  if (h.causal) {
    sums.assign(count * square, 0.f);
    over(count, [&](int64_t s) {
      RECENGINE_PICK(attention_causal_sum)(h, s * ATTENTION_SECTION, range(s), false, sums.data() + s * square,
                                           worker_memory(attention_scratch(h.d)));
    });
    exclusive(sums, count, square, false, total.data());
  } else {
    total = shared_state(h);
  }
  if (state) std::copy(total.begin(), total.end(), state);
  over(count, [&](int64_t s) {
    float* work = worker_memory(attention_scratch(h.d) + square);
    if (h.causal)
      RECENGINE_PICK(attention_causal_forward)(h, s * ATTENTION_SECTION, range(s), sums.data() + s * square, work,
                                               work + square);
    else
      RECENGINE_PICK(attention_apply)(h, s * ATTENTION_SECTION, range(s), total.data(), work);
  });
}

double backward_shared(const AttentionHead& h, const float* state) {
  const int64_t dp = padded16(h.d), square = dp * dp, count = sections(h.n);
  std::vector<float> sums(count * square, 0.f), total(square);
  std::vector<double> parts(count, 0.0), key_parts(count, 0.0);
  const auto range = [&](int64_t s) { return std::min(h.n, (s + 1) * ATTENTION_SECTION); };
  const auto sum = [&](bool of_gradient) {
    over(count, [&](int64_t s) {
      RECENGINE_PICK(attention_causal_sum)(h, s * ATTENTION_SECTION, range(s), of_gradient, sums.data() + s * square,
                                           worker_memory(attention_scratch(h.d)));
    });
    exclusive(sums, count, square, of_gradient, total.data());
  };
  if (h.causal) sum(false);
  std::vector<float> again;
  if (!h.causal && !state) {
    again = shared_state(h);
    state = again.data();
  }
  over(count, [&](int64_t s) {
    float* work = worker_memory(attention_scratch(h.d) + square);
    float* own = sums.data() + s * square;
    parts[s] = h.causal ? RECENGINE_PICK(attention_causal_query_backward)(h, s * ATTENTION_SECTION, range(s), own,
                                                                          work, work + square)
                        : RECENGINE_PICK(attention_query_backward)(h, s * ATTENTION_SECTION, range(s), state, own,
                                                                   work);
  });
  if (h.causal)
    sum(true);
  else
    exclusive(sums, count, square, false, total.data());
  over(count, [&](int64_t s) {
    float* work = worker_memory(attention_scratch(h.d) + square);
    if (h.causal)
      key_parts[s] = RECENGINE_PICK(attention_causal_key_backward)(h, s * ATTENTION_SECTION, range(s),
                                                                   sums.data() + s * square, work, work + square);
    else
      RECENGINE_PICK(attention_key_backward)(h, s * ATTENTION_SECTION, range(s), total.data(), work);
  });
  double weighted = 0;
  for (double part : parts) weighted += part;
  for (int64_t s = count - 1; s >= 0; --s) weighted += key_parts[s];
  return weighted;
}

bool shared(const Call& c) {
  return c.sequences * c.heads < static_cast<int64_t>(torch::stable::get_num_threads()) &&
         c.longest > ATTENTION_SECTION;
}

std::tuple<Tensor, Tensor> forward(const Tensor& qkv, std::optional<Tensor> mask, std::optional<Tensor> lengths,
                                   std::optional<Tensor> offsets, std::optional<Tensor> m, bool causal,
                                   std::string activation, std::string scale, bool save_state) {
  const Call c = check("cosine_attention", qkv, mask, lengths, offsets, m, causal, activation, scale);
  const Tensor out =
      c.varlen ? large_empty(qkv, {c.positions, c.heads, c.d}) : large_empty(qkv, {c.sequences, c.positions, c.heads, c.d});
  const int64_t dp = padded16(c.d);
  save_state = save_state && !causal;
  Tensor state = save_state
                     ? torch::stable::new_empty(qkv, {c.sequences, c.heads, dp, dp}, ScalarType::Float)
                     : torch::stable::new_empty(qkv, {0}, ScalarType::Float);
  float* states = save_state ? static_cast<float*>(state.mutable_data_ptr()) : nullptr;
  const Tables t = tables(c);
  const Views views{view(c, qkv, true), view(c, out, false), {}, {}, true};
  const bool share = shared(c);
  const auto one = [&](int64_t unit) {
    const AttentionHead h = head(c, t, unit, views, nullptr);
    float* slot = states ? states + unit * dp * dp : nullptr;
    if (share && sections(h.n) > 1)
      forward_shared(h, slot);
    else
      forward_head(h, slot);
  };
  const int64_t units = c.sequences * c.heads;
  if (share)
    for (int64_t unit = 0; unit < units; ++unit) one(unit);
  else
    over(units, one);
  return {out, state};
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& qkv, std::optional<Tensor> mask,
                                    std::optional<Tensor> lengths, std::optional<Tensor> offsets,
                                    std::optional<Tensor> m, const Tensor& state, bool causal, std::string activation,
                                    std::string scale) {
  const char* op = "cosine_attention_backward";
  const Call c = check(op, qkv, mask, lengths, offsets, m, causal, activation, scale);
  const int64_t dp = padded16(c.d), units = c.sequences * c.heads;
  check_dim(op, "grad", grad, c.varlen ? 3 : 4);
  check_dtype(op, "grad", grad, qkv.scalar_type(), "of qkv's dtype");
  for (int64_t axis = 0; axis < grad.dim(); ++axis)
    check_size(op, "grad", grad, axis, qkv.size(axis < grad.dim() - 2 ? axis : axis + 1));
  RECENGINE_CHECK(causal || state.numel() == 0 ||
                      (state.numel() == units * dp * dp && state.is_contiguous() &&
                       state.scalar_type() == ScalarType::Float),
                  op, ": state must be what cosine_attention returned with save_state=True, or empty");
  const Tensor dqkv =
      c.varlen ? large_empty(qkv, {c.positions, 3, c.heads, c.d}) : large_empty(qkv, {c.sequences, c.positions, 3, c.heads, c.d});
  Tensor dm = torch::stable::new_empty(qkv, {m ? c.heads : 0}, ScalarType::Float);
  const bool kept = !causal && state.numel() > 0;
  const float* states = kept ? static_cast<const float*>(state.const_data_ptr()) : nullptr;
  const Tables t = tables(c);
  const bool share = shared(c);
  std::vector<double> weighted(units, 0.0);
  const Views views{view(c, qkv, true), {}, view(c, grad, false), view(c, dqkv, true), false};
  const auto one = [&](int64_t unit) {
    double ln = 0;
    const AttentionHead h = head(c, t, unit, views, &ln);
    const float* slot = states ? states + unit * dp * dp : nullptr;
    weighted[unit] = ln * (share && sections(h.n) > 1 ? backward_shared(h, slot) : backward_head(h, slot));
  };
  if (share)
    for (int64_t unit = 0; unit < units; ++unit) one(unit);
  else
    over(units, one);
  sum_exponents(c, t, weighted, dm);
  return {dqkv, dm};
}

// --- where only some rows ask: bidirectional, packed, one thread a head

struct Asked {
  Call c;
  std::vector<int64_t> offset;  // first asked row of each sequence, and their number
  int64_t rows;
};

struct AskedViews {
  View q, kv, out, grad, dq, dkv;
};

// [rows, parts, H, d], or [rows, H, d].
View view_of(const Tensor& x) {
  const int64_t last = x.dim() - 1;
  return {static_cast<char*>(const_cast<void*>(x.const_data_ptr())), 0, x.stride(0), last == 3 ? x.stride(1) : 0,
          x.stride(last - 1), x.stride(last)};
}

Asked check_asked(const char* op, const Tensor& q, const Tensor& kv, const Tensor& wanted, const Tensor& offsets,
                  const std::optional<Tensor>& m, const std::string& activation, const std::string& scale) {
  Asked a{check(op, kv, {}, {}, offsets, m, false, activation, scale, "kv", 2), {}, wanted.numel()};
  const Call& c = a.c;
  check_dim(op, "q", q, 3);
  check_size(op, "q", q, 0, a.rows);
  check_size(op, "q", q, 1, c.heads);
  check_size(op, "q", q, 2, c.d);
  check_dtype(op, "q", q, kv.scalar_type(), "of kv's dtype");
  check_dim(op, "wanted", wanted, 1);
  check_dtype(op, "wanted", wanted, ScalarType::Long, "int64");
  const int64_t* rows = static_cast<const int64_t*>(wanted.const_data_ptr());
  const int64_t step = wanted.stride(0);
  int64_t before = -1, b = 0;
  a.offset.reserve(c.sequences + 1);
  for (int64_t i = 0; i < a.rows; ++i) {
    const int64_t row = rows[i * step];
    RECENGINE_CHECK(row > before && row < c.positions, op, ": wanted[", i, "] is ", row, ", expected ", before + 1,
                    " to ", c.positions - 1, " (rows ascend)");
    for (; c.offset[b] <= row; ++b) a.offset.push_back(i);
    before = row;
  }
  for (; b <= c.sequences; ++b) a.offset.push_back(a.rows);
  return a;
}

AttentionHead asked_head(const Asked& a, const Tables& t, int64_t unit, const AskedViews& v, double* logarithm) {
  const Call& c = a.c;
  const int64_t b = unit / c.heads, hd = unit % c.heads, size = c.bf16 ? 2 : 4;
  const auto at = [&](const View& x, int64_t row, int64_t part) {
    return x.data + (row * x.row + part * x.part + hd * x.head) * size;
  };
  const int64_t key = c.offset[b], query = a.offset[b];
  AttentionHead h{};
  h.q = at(v.q, query, 0);
  h.q_row = v.q.row;
  h.q_elem = v.q.elem;
  h.k = at(v.kv, key, 0);
  h.v = at(v.kv, key, 1);
  h.row = v.kv.row;
  h.elem = v.kv.elem;
  if (v.out.data) {
    h.out = at(v.out, query, 0);
    h.out_row = v.out.row;
  } else {
    h.grad = at(v.grad, query, 0);
    h.grad_row = v.grad.row;
    h.grad_elem = v.grad.elem;
    h.dq = at(v.dq, query, 0);
    h.dq_row = v.dq.row;
    h.dk = at(v.dkv, key, 0);
    h.dv = at(v.dkv, key, 1);
    h.d_row = v.dkv.row;
  }
  h.n = h.limit = c.offset[b + 1] - key;
  h.asked = a.offset[b + 1] - query;
  h.d = c.d;
  h.elu = c.elu;
  h.bf16 = c.bf16;
  const double ln = set_scale(c, t, hd, h.n, h);
  if (logarithm) *logarithm = ln;
  return h;
}

Tensor forward_asked(const Tensor& q, const Tensor& kv, const Tensor& wanted, const Tensor& offsets,
                     std::optional<Tensor> m, std::string activation, std::string scale) {
  const Asked a = check_asked("cosine_attention_at", q, kv, wanted, offsets, m, activation, scale);
  const Call& c = a.c;
  const Tensor out = torch::stable::new_empty(q, {a.rows, c.heads, c.d});
  const Tables t = tables(c);
  const AskedViews v{view_of(q), view_of(kv), view_of(out), {}, {}, {}};
  over(c.sequences * c.heads, [&](int64_t unit) {
    const AttentionHead h = asked_head(a, t, unit, v, nullptr);
    if (h.asked > 0) forward_head(h, nullptr);
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward_asked(const Tensor& grad, const Tensor& q, const Tensor& kv,
                                                  const Tensor& wanted, const Tensor& offsets,
                                                  std::optional<Tensor> m, std::string activation,
                                                  std::string scale) {
  const char* op = "cosine_attention_at_backward";
  const Asked a = check_asked(op, q, kv, wanted, offsets, m, activation, scale);
  const Call& c = a.c;
  check_dim(op, "grad", grad, 3);
  check_dtype(op, "grad", grad, q.scalar_type(), "of q's dtype");
  for (int64_t axis = 0; axis < 3; ++axis) check_size(op, "grad", grad, axis, q.size(axis));
  const Tensor dq = torch::stable::new_empty(q, {a.rows, c.heads, c.d});
  const Tensor dkv = torch::stable::new_empty(q, {c.positions, 2, c.heads, c.d});
  Tensor dm = torch::stable::new_empty(q, {m ? c.heads : 0}, ScalarType::Float);
  const Tables t = tables(c);
  std::vector<double> weighted(c.sequences * c.heads, 0.0);
  const AskedViews v{view_of(q), view_of(kv), {}, view_of(grad), view_of(dq), view_of(dkv)};
  over(c.sequences * c.heads, [&](int64_t unit) {
    double ln = 0;
    const AttentionHead h = asked_head(a, t, unit, v, &ln);
    if (h.asked > 0) {
      weighted[unit] = ln * backward_head(h, nullptr);
    } else {
      const int64_t size = c.bf16 ? 2 : 4;
      for (int64_t i = 0; i < h.n; ++i)
        for (void* rows : {h.dk, h.dv}) std::memset(static_cast<char*>(rows) + i * h.d_row * size, 0, h.d * size);
    }
  });
  sum_exponents(c, t, weighted, dm);
  return {dq, dkv, dm};
}

}  // namespace
}  // namespace recengine

STABLE_TORCH_LIBRARY_IMPL(recengine, CPU, lib) {
  lib.impl("cosine_attention", TORCH_BOX(&recengine::forward));
  lib.impl("cosine_attention_backward", TORCH_BOX(&recengine::backward));
  lib.impl("cosine_attention_at", TORCH_BOX(&recengine::forward_asked));
  lib.impl("cosine_attention_at_backward", TORCH_BOX(&recengine::backward_asked));
}
