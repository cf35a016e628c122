// Exact ranks by counting: how many unseen items come before one target of each user. One pass over the
// items, nothing stored but a count a user.
#pragma once

#include "retrieval/topk_cpu.h"

namespace KERN_NS {

template <class Scorer>
struct RankCounter {
  static constexpr int64_t LANES = Scorer::LANES, ROWS = Scorer::ROWS;

  const Task& task;
  const Plan& plan;
  const Workspace& space;
  const int64_t* targets;
  Scratch scratch;
  uint32_t* unsure;  // [ROWS] ids of one user and tile whose order the screen cannot tell

  RankCounter(const Task& task, const Plan& plan, const Workspace& space, const int64_t* targets, char* memory)
      : task(task), plan(plan), space(space), targets(targets), scratch(memory, task, plan),
        unsure(reinterpret_cast<uint32_t*>(scratch.keys)) {}

  // The state of a group: scores of the targets, the next floats above them, and the counts.
  struct State {
    float *own, *above;
    int64_t* before;
    State(char* p) : own(reinterpret_cast<float*>(p)), above(own + LANES), before(reinterpret_cast<int64_t*>(above + LANES)) {}
  };
  static constexpr int64_t STATE_BYTES = LANES * 16;

  State state(int64_t g) const { return {space.states + g * plan.state_bytes}; }
  const char* group(int64_t g) const { return space.groups + g * plan.group_bytes; }
  const char* tile(int64_t t) const { return space.tiles + t * plan.tile_bytes; }
  int64_t user(int64_t g, int64_t u) const { return space.first_user + g * LANES + u; }
  int64_t users_of(int64_t g) const { return space.n_users - g * LANES < LANES ? space.n_users - g * LANES : LANES; }
  int64_t rows_of(int64_t t) const { return space.n_items - t * ROWS < ROWS ? space.n_items - t * ROWS : ROWS; }

  void begin(int64_t g) {
    Scorer::pack_group(task, space.first_user + g * LANES, users_of(g), scratch.query,
                       space.groups + g * plan.group_bytes);
    State s = state(g);
    for (int64_t u = 0; u < LANES; ++u) {
      s.before[u] = 0;
      s.own[u] = s.above[u] = INF;
      if (u >= users_of(g)) continue;
      const uint32_t id = static_cast<uint32_t>(targets[user(g, u)]);
      read_row(task.queries, user(g, u), scratch.query);
      float own;
      score_items(task.items, scratch.query, task.bias, &id, 1, &own);
      if (own >= LOWEST) {
        s.own[u] = own;
        s.above[u] = own < INF ? next_up(own) : __builtin_nanf("");  // ties of +inf go by id too
      } else {
        s.before[u] = -1;
      }
    }
  }

  void pack_tile(int64_t t) {
    Scorer::pack_tile(task, space.first_item + t * ROWS, rows_of(t), scratch.query,
                      space.tiles + t * plan.tile_bytes);
  }

  void scan(int64_t g0, int64_t g1) {
    const int64_t tiles = (space.n_items + ROWS - 1) / ROWS;
    for (int64_t g = g0; g < g1; ++g) {
      State s = state(g);
      for (int64_t t = 0; t < tiles; ++t) count_tile(s, g, t);
    }
  }

  // What certainly comes before is counted from the tile's scores; what lies within the scorer's slack
  // of the target's score is scored exactly.
  RE_INLINE void count_tile(State& s, int64_t g, int64_t t) {
    const Floors slack = Scorer::slack(group(g), tile(t));
    const vf own0 = load(s.own), own1 = load(s.own + W), above0 = load(s.above), above1 = load(s.above + W);
    const Floors lowest{own0 - slack.low, own1 - slack.high}, sure{above0 + slack.low, above1 + slack.high};
    const uint32_t reached = Scorer::score(group(g), tile(t), task.queries.cols, scratch.scores, lowest);
    if (!reached) return;
    const int64_t rows = rows_of(t);
    vi sure0{}, sure1{}, near0{}, near1{};
    for (int64_t r = 0; r < rows; ++r) {
      const vf x = load(scratch.scores + r * LANES), y = load(scratch.scores + r * LANES + W);
      sure0 -= x >= sure.low;
      sure1 -= y >= sure.high;
      near0 -= x >= lowest.low;
      near1 -= y >= lowest.high;
    }
    int32_t certain[LANES], possible[LANES];
    std::memcpy(certain, &sure0, sizeof(sure0));
    std::memcpy(certain + W, &sure1, sizeof(sure1));
    std::memcpy(possible, &near0, sizeof(near0));
    std::memcpy(possible + W, &near1, sizeof(near1));
    float low[LANES], high[LANES];
    store(low, lowest.low);
    store(low + W, lowest.high);
    store(high, sure.low);
    store(high + W, sure.high);
    for (int64_t u = 0; u < users_of(g); ++u) {
      if (s.before[u] < 0) continue;
      s.before[u] += certain[u];
      if (possible[u] != certain[u]) s.before[u] += resolve(s, g, t, u, low[u], high[u]);
    }
  }

  int64_t resolve(const State& s, int64_t g, int64_t t, int64_t u, float low, float high) {
    const int64_t first = space.first_item + t * ROWS, rows = rows_of(t);
    int64_t n = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const float x = scratch.scores[r * LANES + u];
      if (x >= low && !(x >= high)) unsure[n++] = static_cast<uint32_t>(first + r);
    }
    read_row(task.queries, user(g, u), scratch.query);
    return count_exact(s.own[u], targets[user(g, u)], unsure, n);
  }

  // How many of n items, scored exactly with scratch.query, come before the target.
  int64_t count_exact(float own, int64_t target, const uint32_t* ids, int64_t n) {
    score_items(task.items, scratch.query, task.bias, ids, n, scratch.exact);
    int64_t before = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t id = ids[i];
      before += id != target && (scratch.exact[i] > own || (scratch.exact[i] == own && id < target));
    }
    return before;
  }

  // Takes the seen items out of the counts again, each once.
  void finish(int64_t g, int64_t* ranks) {
    State s = state(g);
    for (int64_t u = 0; u < users_of(g); ++u) {
      if (s.before[u] > 0) {
        read_row(task.queries, user(g, u), scratch.query);
        with_seen(task.seen, user(g, u), [&](auto* ids, int64_t n) { s.before[u] -= seen_before(s, g, u, ids, n); });
      }
      ranks[user(g, u)] = s.before[u];
    }
  }

  // Repeats are told by order: an ascending list (the usual one) is read as it is, another is cut into
  // ranges of ids, each marked in the filter's bits.
  template <class Id>
  int64_t seen_before(const State& s, int64_t g, int64_t u, const Id* ids, int64_t n) {
    bool ascending = true;
    for (int64_t i = 1; i < n; ++i) ascending &= ids[i - 1] <= ids[i];
    int64_t before = 0, held = 0;
    auto take = [&](uint32_t id, bool last) {
      if (!last) unsure[held++] = id;
      if (held == ROWS || (last && held)) {
        before += count_exact(s.own[u], targets[user(g, u)], unsure, held);
        held = 0;
      }
    };
    if (ascending) {
      for (int64_t i = 0; i < n; ++i)
        if (i == 0 || ids[i] != ids[i - 1]) take(static_cast<uint32_t>(ids[i]), false);
    } else {
      for (int64_t from = 0; from < task.items.rows; from += FILTER_BITS) {
        std::memset(scratch.filter, 0, FILTER_BITS / 8);
        for (int64_t i = 0; i < n; ++i) {
          const int64_t at = static_cast<int64_t>(ids[i]) - from;
          if (at < 0 || at >= FILTER_BITS || (scratch.filter[at / 64] >> (at % 64) & 1)) continue;
          scratch.filter[at / 64] |= uint64_t{1} << (at % 64);
          take(static_cast<uint32_t>(ids[i]), false);
        }
      }
    }
    take(0, true);
    return before;
  }
};

}  // namespace KERN_NS
