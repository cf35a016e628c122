// recengine::topk on the processor: every check, then memory, then the loop over blocks.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>
#include <tuple>

#include "common/amx.h"
#include "common/isa.h"
#include "retrieval/inputs.h"
#include "retrieval/topk.h"

#define RE_JOB const recengine::retrieval::Task &, const recengine::retrieval::Plan &, const recengine::retrieval::Workspace &

RECENGINE_DECLARE(
    bool retrieval_is_tame(const recengine::retrieval::Matrix&, int64_t, int64_t);
    void topk_plan(const recengine::retrieval::Task&, bool, recengine::retrieval::Plan&);
    void topk_pack_groups(RE_JOB, char*, int64_t, int64_t); void topk_pack_tiles(RE_JOB, char*, int64_t, int64_t);
    void topk_open(RE_JOB, char*, int64_t, int64_t); void topk_scan(RE_JOB, char*, int64_t, int64_t);
    void topk_finish(RE_JOB, char*, int64_t, int64_t, float*, int64_t*);
    int64_t topk_few_bytes(const recengine::retrieval::Task&);
    void topk_few_scan(const recengine::retrieval::Task&, int64_t, int64_t, char*);
    void topk_few_finish(const recengine::retrieval::Task&, int64_t, char*, float*, int64_t*);
    void rank_begin(RE_JOB, const int64_t*, char*, int64_t, int64_t);
    void rank_scan(RE_JOB, const int64_t*, char*, int64_t, int64_t);
    void rank_finish(RE_JOB, const int64_t*, char*, int64_t, int64_t, int64_t*);)

namespace recengine::retrieval {
namespace {

using std::optional;

Matrix matrix_of(const Tensor& t) {
  return {t.const_data_ptr(), t.size(0), t.size(1), t.stride(0), t.stride(1),
          t.scalar_type() == ScalarType::Float ? Element::f32 : Element::bf16};
}

template <class Id>
void check_seen_ids(const char* op, const Id* ids, int64_t n, int64_t n_items) {
  if (n == 0) return;
  Id low = 0, high = 0;
  for (int64_t i = 0; i < n; ++i) {
    low = ids[i] < low ? ids[i] : low;
    high = ids[i] > high ? ids[i] : high;
  }
  RECENGINE_CHECK(low >= 0 && static_cast<int64_t>(high) < n_items, op, ": seen_items holds ",
                  static_cast<int64_t>(low < 0 ? low : high), ", expected ids of 0 to ", n_items - 1);
}

SeenInput check_seen(const char* op, const optional<Tensor>& indptr, const optional<Tensor>& items, const Tensor& queries,
                     int64_t n_items) {
  SeenInput seen = check_seen_shapes(op, indptr, items, queries);
  if (!seen.indptr) return seen;
  const int64_t rows = queries.size(0);
  const int64_t* p = seen.view.indptr;
  const int64_t n = seen.items->size(0);
  RECENGINE_CHECK(p[0] == 0 && p[rows] == n, op, ": seen_indptr must run from 0 to ", n,
                  " (the length of seen_items), found ", p[0], " to ", p[rows]);
  for (int64_t r = 0; r < rows; ++r)
    RECENGINE_CHECK(p[r] <= p[r + 1], op, ": seen_indptr falls from ", p[r], " to ", p[r + 1], " at row ", r);
  if (seen.view.wide)
    check_seen_ids(op, seen.items->const_data_ptr<int64_t>(), n, n_items);
  else
    check_seen_ids(op, seen.items->const_data_ptr<int32_t>(), n, n_items);
  return seen;
}

struct Free {
  void operator()(char* p) const { std::free(p); }
};
using Memory = std::unique_ptr<char, Free>;
Memory reserve(int64_t bytes) {
  const size_t size = static_cast<size_t>((bytes + 63) / 64 * 64 + 64);
  Memory memory(static_cast<char*>(std::aligned_alloc(64, size)));
  RECENGINE_CHECK(memory != nullptr, "retrieval: no memory for a workspace of ", size, " bytes");
  return memory;
}

// Splits [0, n) into one contiguous part a thread; part i may use scratch i.
template <class F>
void in_parts(int64_t n, int64_t parts, const F& fn) {
  torch::stable::parallel_for(0, parts, 1, [&](int64_t p0, int64_t p1) {
    for (int64_t p = p0; p < p1; ++p) {
      const int64_t from = n * p / parts, to = n * (p + 1) / parts;
      if (from < to) fn(p, from, to);
    }
  });
}

bool is_tame(const Matrix& m, int64_t parts) {
  auto check = RECENGINE_PICK(retrieval_is_tame);
  const std::unique_ptr<bool[]> tame(new bool[static_cast<size_t>(parts)]);
  for (int64_t p = 0; p < parts; ++p) tame[p] = true;
  in_parts(m.rows, parts, [&](int64_t p, int64_t from, int64_t to) { tame[p] = check(m, from, to); });
  for (int64_t p = 0; p < parts; ++p)
    if (!tame[p]) return false;
  return true;
}

constexpr int64_t MANY_USERS = 128, SMALL_TABLE = int64_t{1} << 16;

// Cuts users into chunks and items into blocks: begin(part, groups) once a chunk, then for every block
// pack(part, tiles) and visit(part, groups), then end(part, groups). Parts run beside each other.
struct Sweep {
  const Task& task;
  Plan plan{};
  int64_t threads, users;
  Memory groups, states, tiles, scratch;
  Workspace space{};

  explicit Sweep(const Task& task) : task(task), threads(static_cast<int64_t>(torch::stable::get_num_threads())) {
    // The tiles of a large table cost more to make than few users can win back by them.
    const bool worth = task.queries.rows >= MANY_USERS || task.items.rows <= SMALL_TABLE;
    const bool screen = amx_live() && worth && is_tame(task.queries, threads) && is_tame(task.items, threads);
    RECENGINE_PICK(topk_plan)(task, screen, plan);
    users = std::min(task.queries.rows, plan.users);
    const int64_t n_groups = parts_of(users, plan.lanes);
    const int64_t rows = std::min(std::max(plan.first_rows, plan.block_rows), task.items.rows);
    groups = reserve(n_groups * plan.group_bytes);
    states = reserve(n_groups * plan.state_bytes);
    tiles = reserve(parts_of(rows, plan.tile_rows) * plan.tile_bytes);
    scratch = reserve(threads * plan.scratch_bytes);
    space = {groups.get(), tiles.get(), states.get(), 0, 0, 0, 0};
  }
  static int64_t parts_of(int64_t n, int64_t size) { return (n + size - 1) / size; }
  char* part(int64_t p) const { return scratch.get() + p * plan.scratch_bytes; }

  template <class Begin, class Pack, class Visit, class End>
  void run(const Begin& begin, const Pack& pack, const Visit& visit, const End& end) {
    const int64_t n = task.items.rows;
    for (int64_t u = 0; u < task.queries.rows; u += users) {
      space.first_user = u;
      space.n_users = std::min(users, task.queries.rows - u);
      const int64_t n_groups = parts_of(space.n_users, plan.lanes);
      in_parts(n_groups, threads, begin);
      for (int64_t i = 0; i < n; i += space.n_items) {
        space.first_item = i;
        space.n_items = std::min(i == 0 ? plan.first_rows : plan.block_rows, n - i);
        in_parts(parts_of(space.n_items, plan.tile_rows), threads, pack);
        in_parts(n_groups, threads, visit);
      }
      in_parts(n_groups, threads, end);
    }
  }
};

void run_few(const Task& task, float* scores, int64_t* ids) {
  constexpr int64_t worth = 4096;  // items that pay for a thread
  const int64_t parts = std::max<int64_t>(
      1, std::min<int64_t>(static_cast<int64_t>(torch::stable::get_num_threads()), task.items.rows / worth));
  const int64_t bytes = RECENGINE_PICK(topk_few_bytes)(task);
  const Memory memory = reserve(parts * bytes);
  auto scan = RECENGINE_PICK(topk_few_scan);
  torch::stable::parallel_for(0, parts, 1, [&](int64_t p0, int64_t p1) {
    for (int64_t p = p0; p < p1; ++p)
      scan(task, task.items.rows * p / parts, task.items.rows * (p + 1) / parts, memory.get() + p * bytes);
  });
  RECENGINE_PICK(topk_few_finish)(task, parts, memory.get(), scores, ids);
}

void run_topk(const Task& task, float* scores, int64_t* ids) {
  if (task.queries.rows <= FEW_USERS && task.items.col_stride == 1) return run_few(task, scores, ids);
  Sweep s(task);
  auto pack_groups = RECENGINE_PICK(topk_pack_groups);
  auto pack_tiles = RECENGINE_PICK(topk_pack_tiles);
  auto open = RECENGINE_PICK(topk_open);
  auto scan = RECENGINE_PICK(topk_scan);
  auto finish = RECENGINE_PICK(topk_finish);
  s.run([&](int64_t p, int64_t a, int64_t b) { pack_groups(task, s.plan, s.space, s.part(p), a, b); },
        [&](int64_t p, int64_t a, int64_t b) { pack_tiles(task, s.plan, s.space, s.part(p), a, b); },
        [&](int64_t p, int64_t a, int64_t b) {
          (s.space.first_item == 0 ? open : scan)(task, s.plan, s.space, s.part(p), a, b);
        },
        [&](int64_t p, int64_t a, int64_t b) { finish(task, s.plan, s.space, s.part(p), a, b, scores, ids); });
}

void run_rank(const Task& task, const int64_t* targets, int64_t* ranks) {
  Sweep s(task);
  auto begin = RECENGINE_PICK(rank_begin);
  auto pack_tiles = RECENGINE_PICK(topk_pack_tiles);
  auto scan = RECENGINE_PICK(rank_scan);
  auto finish = RECENGINE_PICK(rank_finish);
  s.run([&](int64_t p, int64_t a, int64_t b) { begin(task, s.plan, s.space, targets, s.part(p), a, b); },
        [&](int64_t p, int64_t a, int64_t b) { pack_tiles(task, s.plan, s.space, s.part(p), a, b); },
        [&](int64_t p, int64_t a, int64_t b) { scan(task, s.plan, s.space, targets, s.part(p), a, b); },
        [&](int64_t p, int64_t a, int64_t b) { finish(task, s.plan, s.space, targets, s.part(p), a, b, ranks); });
}

std::tuple<Tensor, Tensor> topk(const Tensor& queries, const Tensor& items, const optional<Tensor>& bias,
                                const optional<Tensor>& seen_indptr, const optional<Tensor>& seen_items, int64_t k) {
  const char* op = "topk";
  check_pair(op, queries, items, false);
  RECENGINE_CHECK(k >= 1 && k <= 1000, op, ": k is ", k, ", expected 1 to 1000");
  const optional<Tensor> flat_bias = check_bias(op, bias, items);
  const SeenInput seen = check_seen(op, seen_indptr, seen_items, queries, items.size(0));
  Tensor scores = torch::stable::new_empty(queries, {queries.size(0), k}, ScalarType::Float);
  Tensor ids = torch::stable::new_empty(queries, {queries.size(0), k}, ScalarType::Long);
  if (queries.size(0) == 0) return {scores, ids};
  const Task task{matrix_of(queries), matrix_of(items), flat_bias ? flat_bias->const_data_ptr<float>() : nullptr,
                  seen.view, k};
  run_topk(task, scores.mutable_data_ptr<float>(), ids.mutable_data_ptr<int64_t>());
  return {scores, ids};
}

Tensor rank_of(const Tensor& queries, const Tensor& items, const Tensor& targets, const optional<Tensor>& bias,
               const optional<Tensor>& seen_indptr, const optional<Tensor>& seen_items) {
  const char* op = "rank_of";
  check_pair(op, queries, items, false);
  check_targets(op, targets, queries);
  const optional<Tensor> flat_bias = check_bias(op, bias, items);
  const SeenInput seen = check_seen(op, seen_indptr, seen_items, queries, items.size(0));
  const Tensor wanted = torch::stable::contiguous(targets);
  const int64_t* ids = wanted.const_data_ptr<int64_t>();
  for (int64_t b = 0; b < queries.size(0); ++b)
    RECENGINE_CHECK(ids[b] >= 0 && ids[b] < items.size(0), op, ": targets holds ", ids[b], " at row ", b,
                    ", expected ids of 0 to ", items.size(0) - 1);
  Tensor ranks = torch::stable::new_empty(queries, {queries.size(0)}, ScalarType::Long);
  if (queries.size(0) == 0) return ranks;
  const Task task{matrix_of(queries), matrix_of(items), flat_bias ? flat_bias->const_data_ptr<float>() : nullptr,
                  seen.view, 1};
  run_rank(task, ids, ranks.mutable_data_ptr<int64_t>());
  return ranks;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(recengine, CPU, m) {
  m.impl("topk", TORCH_BOX(&topk));
  m.impl("rank_of", TORCH_BOX(&rank_of));
}

}  // namespace recengine::retrieval
