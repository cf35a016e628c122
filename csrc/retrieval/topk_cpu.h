// The running top-k of a group of users over blocks of items; `Scorer` is Exact or Screen (score.h).
#pragma once

#include "retrieval/score.h"

namespace KERN_NS {

using recengine::retrieval::Plan;
using recengine::retrieval::Seen;
using recengine::retrieval::Workspace;

inline constexpr int64_t SMALL_K = 64;           // up to here the first threshold is found in registers
inline constexpr int64_t FILTER_BITS = 1 << 16;  // of the seen filter

// What a group keeps between blocks.
struct GroupState {
  float* threshold;   // [lanes] exact scores below it cannot enter
  int32_t* kept;      // [lanes] how many of `best` are held
  int32_t* waiting;   // [lanes] how many of `pending` are held
  Key* best;          // [lanes][k], the first `kept` unordered
  uint32_t* pending;  // [lanes][plan.pending], ids not weighed yet

  static int64_t bytes(int64_t lanes, int64_t k, int64_t pending) {
    return (lanes * (12 + 8 * k + 4 * pending) + 127) / 64 * 64;
  }
  GroupState(char* p, const Plan& plan, int64_t k) {
    best = reinterpret_cast<Key*>(p);
    threshold = reinterpret_cast<float*>(best + plan.lanes * k);
    kept = reinterpret_cast<int32_t*>(threshold + plan.lanes);
    waiting = kept + plan.lanes;
    pending = reinterpret_cast<uint32_t*>(waiting + plan.lanes);
  }
};

// Scratch of one thread.
struct Scratch {
  float* scores;  // [first_rows][lanes]
  float* query;   // [columns, rounded up to 32, and as many again for roundings]
  float* exact;   // [max(pending, first_rows)]
  Key* keys;      // [k + pending]
  float* maxima;  // [first_rows + 1][lanes], of runs
  float* tops;    // [SMALL_K][lanes]
  uint64_t* filter;

  static int64_t longest(const Plan& plan) {
    return plan.pending > plan.first_rows ? plan.pending : plan.first_rows;
  }
  static int64_t columns(const Task& task) { return (task.queries.cols + 31) / 32 * 32 * 2; }
  static int64_t bytes(const Task& task, const Plan& plan) {
    return 4 * ((2 * plan.first_rows + 1) * plan.lanes + columns(task) + longest(plan) + SMALL_K * plan.lanes) +
           8 * (task.k + plan.pending) + FILTER_BITS / 8 + 7 * 64;
  }
  Scratch(char* p, const Task& task, const Plan& plan) {
    auto take = [&p](int64_t bytes) {
      char* here = p;
      p += (bytes + 63) / 64 * 64;
      return here;
    };
    scores = reinterpret_cast<float*>(take(4 * plan.first_rows * plan.lanes));
    maxima = reinterpret_cast<float*>(take(4 * (plan.first_rows + 1) * plan.lanes));
    query = reinterpret_cast<float*>(take(4 * columns(task)));
    exact = reinterpret_cast<float*>(take(4 * longest(plan)));
    keys = reinterpret_cast<Key*>(take(8 * (task.k + plan.pending)));
    tops = reinterpret_cast<float*>(take(4 * SMALL_K * plan.lanes));
    filter = reinterpret_cast<uint64_t*>(take(FILTER_BITS / 8));
  }
};

// Calls fn(pointer to the seen ids of a user, how many).
template <class F>
RE_INLINE void with_seen(const Seen& seen, int64_t user, F&& fn) {
  if (!seen.indptr) return;
  const int64_t from = seen.indptr[user], n = seen.indptr[user + 1] - from;
  if (seen.wide)
    fn(static_cast<const int64_t*>(seen.ids) + from, n);
  else
    fn(static_cast<const int32_t*>(seen.ids) + from, n);
}

// Which ids a user has seen: a bit filter that answers most questions, a scan for the rest. Needs no
// order in the seen list.
struct SeenFilter {
  uint64_t* bits;
  int shift = 0;

  static RE_INLINE uint32_t mixed(uint64_t id) { return static_cast<uint32_t>(id) * 2654435761u; }

  SeenFilter(uint64_t* bits, const Seen& seen, int64_t user) : bits(bits) {
    with_seen(seen, user, [&](auto* ids, int64_t n) {
      int64_t size = 512;
      shift = 23;
      while (size < 16 * n && size < FILTER_BITS) size *= 2, --shift;
      std::memset(bits, 0, static_cast<size_t>(size / 8));
      for (int64_t i = 0; i < n; ++i) {
        const uint32_t h = mixed(static_cast<uint64_t>(ids[i])) >> shift;
        bits[h / 64] |= uint64_t{1} << (h % 64);
      }
    });
  }
  RE_INLINE bool holds(const Seen& seen, int64_t user, uint32_t id) const {
    if (!shift) return false;
    const uint32_t h = mixed(id) >> shift;
    if (!(bits[h / 64] >> (h % 64) & 1)) return false;
    bool found = false;
    with_seen(seen, user, [&](auto* ids, int64_t n) {
      using Id = std::remove_const_t<std::remove_pointer_t<decltype(ids)>>;
      const Id wanted = static_cast<Id>(id);
      for (int64_t i = 0; i < n; ++i) found |= ids[i] == wanted;
    });
    return found;
  }
};

template <class Scorer>
struct Topk {
  static constexpr int64_t LANES = Scorer::LANES, ROWS = Scorer::ROWS;

  const Task& task;
  const Plan& plan;
  const Workspace& space;
  Scratch scratch;

  Topk(const Task& task, const Plan& plan, const Workspace& space, char* memory)
      : task(task), plan(plan), space(space), scratch(memory, task, plan) {}

  GroupState state(int64_t g) const { return {space.states + g * plan.state_bytes, plan, task.k}; }
  const char* group(int64_t g) const { return space.groups + g * plan.group_bytes; }
  const char* tile(int64_t t) const { return space.tiles + t * plan.tile_bytes; }
  int64_t users_of(int64_t g) const {
    const int64_t left = space.n_users - g * LANES;
    return left < LANES ? left : LANES;
  }
  int64_t rows_of(int64_t t) const {
    const int64_t left = space.n_items - t * ROWS;
    return left < ROWS ? left : ROWS;
  }
  int64_t n_tiles() const { return (space.n_items + ROWS - 1) / ROWS; }
  RE_INLINE Floors floors(const GroupState& s, int64_t g, int64_t t) const {
    return Scorer::floors(group(g), tile(t), {load(s.threshold), load(s.threshold + W)});
  }

  void pack_group(int64_t g) {
    Scorer::pack_group(task, space.first_user + g * LANES, users_of(g), scratch.query,
                       space.groups + g * plan.group_bytes);
    GroupState s = state(g);
    for (int64_t u = 0; u < LANES; ++u) {
      s.kept[u] = s.waiting[u] = 0;
      s.threshold[u] = u < users_of(g) ? LOWEST : INF;
    }
  }
  void pack_tile(int64_t t) {
    Scorer::pack_tile(task, space.first_item + t * ROWS, rows_of(t), scratch.query,
                      space.tiles + t * plan.tile_bytes);
  }

  // Weighs the pending items of a user: exact scores, seen ones dropped, the best k kept.
  void weigh(GroupState& s, int64_t g, int64_t u) {
    const int64_t user = space.first_user + g * LANES + u, n = s.waiting[u], k = task.k;
    uint32_t* ids = s.pending + u * plan.pending;
    Key* best = s.best + u * k;
    read_row(task.queries, user, scratch.query);
    score_items(task.items, scratch.query, task.bias, ids, n, scratch.exact);
    const SeenFilter seen(scratch.filter, task.seen, user);
    Key* keys = scratch.keys;
    int64_t m = s.kept[u];
    std::memcpy(keys, best, static_cast<size_t>(8 * m));
    for (int64_t i = 0; i < n; ++i) {
      const float score = scratch.exact[i];
      if (score >= s.threshold[u] && !seen.holds(task.seen, user, ids[i])) keys[m++] = make_key(score, ids[i]);
    }
    if (m > k) {
      select_smallest(keys, m, k);
      m = k;
      s.threshold[u] = key_score(keys[k - 1]);
    } else if (m == k) {
      Key last = keys[0];
      for (int64_t i = 1; i < k; ++i) last = keys[i] > last ? keys[i] : last;
      s.threshold[u] = key_score(last);
    }
    // Items come in ascending order of id, so a later equal score cannot enter any more.
    if (m == k && s.threshold[u] < INF) s.threshold[u] = next_up(s.threshold[u]);
    std::memcpy(best, keys, static_cast<size_t>(8 * m));
    s.kept[u] = static_cast<int32_t>(m);
    s.waiting[u] = 0;
  }

  // Takes the items of a scored tile that reach their user's floor into the pending lists.
  RE_INLINE void admit(GroupState& s, int64_t g, int64_t t, const float* scores, uint32_t users, Floors floor) {
    const int64_t rows = rows_of(t);
    const uint32_t first = static_cast<uint32_t>(space.first_item + t * ROWS);
    const uint32_t present = ~uint32_t{0} >> (32 - users_of(g));  // an infinite score reaches the floor of a lane without a user
    for (int64_t r = 0; r < rows; ++r) {
      uint32_t hit = (lanes_at_least(load(scores + r * LANES), floor.low) |
                      lanes_at_least(load(scores + r * LANES + W), floor.high) << W) & present;
      for (; hit; hit &= hit - 1) {
        const int u = __builtin_ctz(hit);
        s.pending[u * plan.pending + s.waiting[u]++] = first + static_cast<uint32_t>(r);
      }
    }
    for (; users; users &= users - 1) {
      const int u = __builtin_ctz(users);
      if (s.waiting[u] > plan.pending - ROWS) weigh(s, g, u);
    }
  }

  // The first block: all its scores are held for a moment, and from them comes a threshold that k unseen
  // items reach: for small k the k-th largest of the maxima of short runs of items, for large k the k-th
  // largest score.
  void open(int64_t g) {
    GroupState s = state(g);
    const int64_t tiles = n_tiles(), n = space.n_items, k = task.k;
    const bool by_runs = k <= SMALL_K;
    const Floors none{splat(INF), splat(INF)};
    const int64_t run = by_runs ? run_rows(tiles) : ROWS;
    for (int64_t t = 0; t < tiles; ++t) {
      float* out = scratch.scores + t * ROWS * LANES;
      Scorer::score(group(g), tile(t), task.queries.cols, out, none);
      if (by_runs) maxima_of_runs(out, t, run);
    }
    if (k < n) {
      if (by_runs) {
        threshold_of_runs(s, g, run);
      } else {
        hide_seen(g, n);
        for (int64_t u = 0; u < users_of(g); ++u) threshold_of_column(s, u, n);
      }
      lower_by_slack(s, g);
    }
    for (int64_t t = 0; t < tiles; ++t)
      admit(s, g, t, scratch.scores + t * ROWS * LANES, ~uint32_t{0} >> (32 - LANES), floors(s, g, t));
    tidy(s, g);
  }

  static int64_t pieces_of(int64_t run) { return (ROWS + run - 1) / run; }

  // Rows of a run, a part of a tile: short enough that there are eight times as many runs as wanted items.
  int64_t run_rows(int64_t tiles) const {
    int64_t run = ROWS;
    while (run > 1 && tiles * pieces_of(run) < 8 * task.k) run = (run + 1) / 2;
    return run;
  }

  RE_INLINE void maxima_of_runs(const float* scores, int64_t t, int64_t run) {
    const int64_t rows = rows_of(t);
    float* out = scratch.maxima + t * pieces_of(run) * LANES;
    for (int64_t from = 0; from < ROWS; from += run, out += LANES) {
      vf low = splat(-INF), high = low;
      for (int64_t r = from; r < from + run && r < rows; ++r) {
        low = keep_max(low, load(scores + r * LANES));
        high = keep_max(high, load(scores + r * LANES + W));
      }
      store(out, low);
      store(out + W, high);
    }
  }

  // A run with a seen item says nothing about this user. Fewer than k runs left: no threshold.
  void threshold_of_runs(GroupState& s, int64_t g, int64_t run) {
    const int64_t k = task.k, pieces = pieces_of(run), runs = n_tiles() * pieces;
    int32_t piece[ROWS];
    for (int64_t r = 0; r < ROWS; ++r) piece[r] = static_cast<int32_t>(r / run);
    for (int64_t u = 0; u < users_of(g); ++u)
      with_seen(task.seen, space.first_user + g * LANES + u, [&](auto* ids, int64_t count) {
        for (int64_t i = 0; i < count; ++i) {
          const uint32_t id = static_cast<uint32_t>(ids[i]);
          const int64_t at = static_cast<int64_t>(id / ROWS) * pieces + piece[id % ROWS];
          // Ids behind the block go to a row of their own: a store is cheaper than a guessed branch.
          scratch.maxima[(at < runs ? at : runs) * LANES + u] = -INF;
        }
      });
    float* tops = scratch.tops;  // sorted, largest first
    for (int64_t j = 0; j < k * LANES; ++j) tops[j] = -INF;
    float* last = tops + (k - 1) * LANES;
    for (int64_t i = 0; i < runs; ++i) {
      vf low = load(scratch.maxima + i * LANES), high = load(scratch.maxima + i * LANES + W);
      if (!(lanes_at_least(low, load(last)) | lanes_at_least(high, load(last + W)))) continue;
      for (int64_t j = 0; j < k; ++j) {
        float* p = tops + j * LANES;
        const vf a = load(p), b = load(p + W);
        store(p, vmax(a, low));
        store(p + W, vmax(b, high));
        low = vmin(a, low);
        high = vmin(b, high);
      }
    }
    for (int64_t u = 0; u < LANES; ++u) raise(s, u, last[u]);
  }

  void hide_seen(int64_t g, int64_t n) {
    for (int64_t u = 0; u < users_of(g); ++u)
      with_seen(task.seen, space.first_user + g * LANES + u, [&](auto* ids, int64_t count) {
        for (int64_t i = 0; i < count; ++i)
          if (ids[i] < n) scratch.scores[static_cast<int64_t>(ids[i]) * LANES + u] = -INF;
      });
  }

  void threshold_of_column(GroupState& s, int64_t u, int64_t n) {
    float* column = scratch.exact;
    for (int64_t i = 0; i < n; ++i) {
      const float x = scratch.scores[i * LANES + u];
      column[i] = x >= LOWEST ? -x : INF;  // NaN and -inf go last
    }
    select_smallest(column, n, task.k);
    raise(s, u, -column[task.k - 1]);
  }

  static void raise(GroupState& s, int64_t u, float threshold) {
    if (threshold > s.threshold[u]) s.threshold[u] = threshold;
  }

  void lower_by_slack(GroupState& s, int64_t g) {
    Floors most{vf{}, vf{}};
    for (int64_t t = 0; t < n_tiles(); ++t) {
      const Floors slack = Scorer::slack(group(g), tile(t));
      most = {keep_max(most.low, slack.low), keep_max(most.high, slack.high)};
    }
    float lowered[2 * W];
    store(lowered, load(s.threshold) - most.low);
    store(lowered + W, load(s.threshold + W) - most.high);
    for (int64_t u = 0; u < LANES; ++u)
      if (lowered[u] < s.threshold[u]) s.threshold[u] = lowered[u] > LOWEST ? next_down(lowered[u]) : LOWEST;
  }

  // Every other block, for groups [g0, g1): cut so that what is read again stays in the first cache.
  void scan(int64_t g0, int64_t g1) {
    const int64_t tiles = n_tiles();
    const int64_t tile_run = at_least_one(24576 / at_least_one(plan.tile_bytes)),
                  group_run = at_least_one(16384 / at_least_one(plan.group_bytes));
    for (int64_t gr = g0; gr < g1; gr += group_run)
      for (int64_t tr = 0; tr < tiles; tr += tile_run)
        for (int64_t g = gr; g < g1 && g < gr + group_run; ++g) {
          GroupState s = state(g);
          for (int64_t t = tr; t < tiles && t < tr + tile_run; ++t) {
            const Floors floor = floors(s, g, t);
            const uint32_t users = Scorer::score(group(g), tile(t), task.queries.cols, scratch.scores, floor);
            if (__builtin_expect(users != 0, 0)) admit(s, g, t, scratch.scores, users, floor);
          }
        }
    for (int64_t g = g0; g < g1; ++g) {
      GroupState s = state(g);
      tidy(s, g);
    }
  }

  // Weighs what has piled up, for a better threshold in the next block; the last block leaves it to finish.
  void tidy(GroupState& s, int64_t g) {
    if (space.first_item + space.n_items >= task.items.rows) return;
    for (int64_t u = 0; u < users_of(g); ++u)
      if (s.waiting[u] >= plan.pending / 2) weigh(s, g, u);
  }
  static int64_t at_least_one(int64_t n) { return n < 1 ? 1 : n; }

  void finish(int64_t g, float* scores, int64_t* ids) {
    GroupState s = state(g);
    const int64_t k = task.k;
    for (int64_t u = 0; u < users_of(g); ++u) {
      if (s.waiting[u]) weigh(s, g, u);
      Key* best = s.best + u * k;
      sort_values(best, s.kept[u]);
      float* score_row = scores + (space.first_user + g * LANES + u) * k;
      int64_t* id_row = ids + (space.first_user + g * LANES + u) * k;
      for (int64_t j = 0; j < k; ++j) {
        score_row[j] = j < s.kept[u] ? key_score(best[j]) : -INF;
        id_row[j] = j < s.kept[u] ? static_cast<int64_t>(key_id(best[j])) : -1;
      }
    }
  }
};

}  // namespace KERN_NS
