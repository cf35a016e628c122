// Entry points of the retrieval kernels: compiled once per instruction set.
#include "retrieval/few_cpu.h"
#include "retrieval/rank_cpu.h"

namespace KERN_NS {

namespace {

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

template <class Scorer>
void fill(const Task& task, Plan& plan) {
  const int64_t d = task.queries.cols, k = task.k;
  plan.lanes = Scorer::LANES;
  plan.tile_rows = Scorer::ROWS;
  plan.group_bytes = round_up(Scorer::group_bytes(d), 64);
  plan.tile_bytes = round_up(Scorer::tile_bytes(d), 64);
  const int64_t first = k <= SMALL_K ? 2048 : 4 * k < 2048 ? 2048 : 4 * k;
  // A small catalogue is one block: its threshold is then nearly the final one.
  plan.first_rows = round_up(task.items.rows <= 2 * first ? task.items.rows : first, Scorer::ROWS);
  int64_t block = (int64_t{1} << 20) / plan.tile_bytes;  // tiles of a block: about 1 MB
  block = block < 8 ? 8 : block > 128 ? 128 : block;
  plan.block_rows = block * Scorer::ROWS;
  plan.pending = round_up(2 * k + 96, 16);
  plan.state_bytes = GroupState::bytes(Scorer::LANES, k, plan.pending);
  const int64_t groups = (int64_t{16} << 20) / (plan.state_bytes + plan.group_bytes);
  plan.users = (groups < 1 ? 1 : groups) * Scorer::LANES;
  plan.scratch_bytes = round_up(Scratch::bytes(task, plan), 4096);
}

// Calls fn with the scorer of this plan (as a value without content).
template <class F>
void with_scorer(const Plan& plan, F&& fn) {
#ifdef RECENGINE_AMX
  if (plan.screen) {
    const TileScope tiles;
    return fn(Screen{});
  }
#endif
  (void)plan;
  fn(Exact{});
}
template <class F>
void with_topk(const Task& task, const Plan& plan, const Workspace& space, char* scratch, F&& fn) {
  with_scorer(plan, [&](auto scorer) {
    Topk<decltype(scorer)> topk(task, plan, space, scratch);
    fn(topk);
  });
}
template <class F>
void with_counter(const Task& task, const Plan& plan, const Workspace& space, const int64_t* targets, char* scratch,
                  F&& fn) {
  with_scorer(plan, [&](auto scorer) {
    RankCounter<decltype(scorer)> counter(task, plan, space, targets, scratch);
    fn(counter);
  });
}

}  // namespace

// Whether all values of rows [r0, r1) are numbers of at most 2^40 in size, so that no bf16 rounding or
// float32 sum of products can overflow.
bool retrieval_is_tame(const Matrix& m, int64_t r0, int64_t r1) {
  return with_element(m.element, [&](auto* kind) {
    uint32_t most = 0;
    for (int64_t r = r0; r < r1; ++r) {
      auto* p = static_cast<decltype(kind)>(m.data) + r * m.row_stride;
      if (m.col_stride == 1)
        for (int64_t j = 0; j < m.cols; ++j) {
          const uint32_t size = float_bits(widen(p[j])) & 0x7fffffffu;
          most = size > most ? size : most;
        }
      else
        for (int64_t j = 0; j < m.cols; ++j) {
          const uint32_t size = float_bits(widen(p[j * m.col_stride])) & 0x7fffffffu;
          most = size > most ? size : most;
        }
    }
    return most <= float_bits(0x1p40f);
  });
}

void topk_plan(const Task& task, bool screen, Plan& plan) {
  plan.screen = screen;
#ifdef RECENGINE_AMX
  if (screen) return fill<Screen>(task, plan);
#endif
  plan.screen = false;
  fill<Exact>(task, plan);
}

void topk_pack_groups(const Task& task, const Plan& plan, const Workspace& space, char* scratch, int64_t g0, int64_t g1) {
  with_topk(task, plan, space, scratch, [=](auto& topk) {
    for (int64_t g = g0; g < g1; ++g) topk.pack_group(g);
  });
}
void topk_pack_tiles(const Task& task, const Plan& plan, const Workspace& space, char* scratch, int64_t t0, int64_t t1) {
  with_topk(task, plan, space, scratch, [=](auto& topk) {
    for (int64_t t = t0; t < t1; ++t) topk.pack_tile(t);
  });
}
void topk_open(const Task& task, const Plan& plan, const Workspace& space, char* scratch, int64_t g0, int64_t g1) {
  with_topk(task, plan, space, scratch, [=](auto& topk) {
    for (int64_t g = g0; g < g1; ++g) topk.open(g);
  });
}
void topk_scan(const Task& task, const Plan& plan, const Workspace& space, char* scratch, int64_t g0, int64_t g1) {
  with_topk(task, plan, space, scratch, [=](auto& topk) { topk.scan(g0, g1); });
}
void topk_finish(const Task& task, const Plan& plan, const Workspace& space, char* scratch, int64_t g0, int64_t g1,
                 float* scores, int64_t* ids) {
  with_topk(task, plan, space, scratch, [=](auto& topk) {
    for (int64_t g = g0; g < g1; ++g) topk.finish(g, scores, ids);
  });
}

int64_t topk_few_bytes(const Task& task) { return FewState::bytes(task); }

// Leaves the best k of items [first, last) in `memory`, for topk_few_finish.
void topk_few_scan(const Task& task, int64_t first, int64_t last, char* memory) { Few(task, memory).run(first, last); }

// The best of what `parts` workers found, whose memory lies topk_few_bytes apart.
void topk_few_finish(const Task& task, int64_t parts, char* memory, float* scores, int64_t* ids) {
  const int64_t bytes = FewState::bytes(task), capacity = FewState::capacity(task), k = task.k;
  Few all(task, memory);
  for (int64_t u = 0; u < task.queries.rows; ++u) {
    Key* keys = all.state.keys + u * capacity;
    for (int64_t p = 1; p < parts; ++p) {
      const FewState other(task, memory + p * bytes);
      const Key* found = other.keys + u * capacity;
      for (int64_t i = 0; i < other.held[u]; ++i) {
        if (all.state.held[u] == capacity) all.weigh(u);
        keys[all.state.held[u]++] = found[i];
      }
    }
    all.weigh(u);
    const int64_t held = all.state.held[u];
    sort_values(keys, held);
    for (int64_t j = 0; j < k; ++j) {
      scores[u * k + j] = j < held ? key_score(keys[j]) : -INF;
      ids[u * k + j] = j < held ? static_cast<int64_t>(key_id(keys[j])) : -1;
    }
  }
}

void rank_begin(const Task& task, const Plan& plan, const Workspace& space, const int64_t* targets, char* scratch,
                int64_t g0, int64_t g1) {
  with_counter(task, plan, space, targets, scratch, [=](auto& counter) {
    for (int64_t g = g0; g < g1; ++g) counter.begin(g);
  });
}
void rank_scan(const Task& task, const Plan& plan, const Workspace& space, const int64_t* targets, char* scratch,
               int64_t g0, int64_t g1) {
  with_counter(task, plan, space, targets, scratch, [=](auto& counter) { counter.scan(g0, g1); });
}
void rank_finish(const Task& task, const Plan& plan, const Workspace& space, const int64_t* targets, char* scratch,
                 int64_t g0, int64_t g1, int64_t* ranks) {
  with_counter(task, plan, space, targets, scratch, [=](auto& counter) {
    for (int64_t g = g0; g < g1; ++g) counter.finish(g, ranks);
  });
}

}  // namespace KERN_NS
