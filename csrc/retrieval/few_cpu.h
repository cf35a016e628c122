// The top-k of a handful of users: one pass over the item table where it lies. W items are turned into W lanes in
// registers, scored for every user while they are there, and what reaches a user's running threshold is kept.
#pragma once

#include "common/rows.h"
#include "retrieval/topk_cpu.h"

namespace KERN_NS {

// What one worker holds for its part of the items.
struct FewState {
  static constexpr int64_t PENDING = 256;
  static constexpr int64_t AHEAD = 8192;  // bytes of the table asked for before they are read

  float* query;      // [users][d]
  float* threshold;  // [users] scores below it cannot enter
  int64_t* held;     // [users] how many of `keys`
  Key* keys;         // [users][capacity], of which the first k or fewer have been weighed
  int64_t* weighed;  // [users]
  uint64_t* filter;

  static int64_t capacity(const Task& task) { return task.k + PENDING + W; }
  static int64_t bytes(const Task& task) {
    const int64_t users = task.queries.rows;
    return (users * (task.queries.cols * 4 + 4 + 8 + 8 + capacity(task) * 8) + FILTER_BITS / 8 + 6 * 64 + 63) / 64 * 64;
  }
  FewState(const Task& task, char* p) {
    const int64_t users = task.queries.rows;
    const auto take = [&p](int64_t bytes) {
      char* here = p;
      p += (bytes + 63) / 64 * 64;
      return here;
    };
    query = reinterpret_cast<float*>(take(users * task.queries.cols * 4));
    threshold = reinterpret_cast<float*>(take(users * 4));
    held = reinterpret_cast<int64_t*>(take(users * 8));
    weighed = reinterpret_cast<int64_t*>(take(users * 8));
    keys = reinterpret_cast<Key*>(take(users * capacity(task) * 8));
    filter = reinterpret_cast<uint64_t*>(take(FILTER_BITS / 8));
  }
};

// chain() of score.h for every lane.
RE_INLINE vf chain(vf a, float b, vf sum) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, splat(b), sum);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, splat(b), sum);
#else
  return sum + a * b;
#endif
}

RE_INLINE vf load_lanes(const float* p) { return load(p); }
RE_INLINE vf load_lanes(const uint16_t* p) { return load_bf16(p); }

struct Few {
  const Task& task;
  FewState state;
  int64_t users, d, capacity;

  Few(const Task& task, char* memory)
      : task(task), state(task, memory), users(task.queries.rows), d(task.queries.cols),
        capacity(FewState::capacity(task)) {}

  // Drops what was seen and all but the best k of what a user holds.
  void weigh(int64_t u) {
    Key* keys = state.keys + u * capacity;
    const SeenFilter seen(state.filter, task.seen, u);
    int64_t n = state.weighed[u];
    for (int64_t i = n; i < state.held[u]; ++i)
      if (!seen.holds(task.seen, u, key_id(keys[i]))) keys[n++] = keys[i];
    const int64_t k = task.k;
    if (n >= k) {
      select_smallest(keys, n, k);
      n = k;
      // Ids rise: a later equal score cannot enter any more.
      const float last = key_score(keys[k - 1]);
      state.threshold[u] = last < INF ? next_up(last) : INF;
    }
    state.held[u] = state.weighed[u] = n;
  }

  template <class T>
  void scan(const T* table, int64_t first, int64_t last) {
    const int64_t step = task.items.row_stride, whole = d / W * W;
    for (int64_t i = first; i < last; i += W) {
      const int64_t n = last - i < W ? last - i : W;
      const T* row[W];
      for (int64_t r = 0; r < W; ++r) row[r] = table + (i + (r < n ? r : 0)) * step;
      vf score[MOST_USERS] = {};
      for (int64_t j = 0; j < whole; j += W) {
        vf v[W];
#pragma GCC unroll 16
        for (int r = 0; r < W; ++r) {
          __builtin_prefetch(reinterpret_cast<const char*>(row[r] + j) + FewState::AHEAD, 0, 3);
          v[r] = load_lanes(row[r] + j);
        }
        transpose(v);
        for (int64_t u = 0; u < users; ++u) {
          const float* q = state.query + u * d + j;
          vf sum = score[u];
#pragma GCC unroll 16
          for (int c = 0; c < W; ++c) sum = chain(v[c], q[c], sum);
          score[u] = sum;
        }
      }
      for (int64_t j = whole; j < d; ++j) {
        float lane[W];
        for (int64_t r = 0; r < W; ++r) lane[r] = widen(row[r][j]);
        const vf v = load(lane);
        for (int64_t u = 0; u < users; ++u) score[u] = chain(v, state.query[u * d + j], score[u]);
      }
      const vf bias = !task.bias ? vf{} : load_n(task.bias + i, static_cast<int>(n));
      const uint32_t exist = (uint32_t{1} << (n - 1) << 1) - 1;
      for (int64_t u = 0; u < users; ++u) {
        const vf x = task.bias ? score[u] + bias : score[u];
        uint32_t hit = lanes_at_least(x, splat(state.threshold[u])) & exist;
        if (__builtin_expect(hit == 0, 1)) continue;
        float lane[W];
        store(lane, x);
        Key* keys = state.keys + u * capacity;
        for (; hit; hit &= hit - 1) {
          const int r = __builtin_ctz(hit);
          keys[state.held[u]++] = make_key(lane[r], static_cast<uint32_t>(i + r));
        }
        if (state.held[u] > capacity - W) weigh(u);
      }
    }
  }

  static constexpr int64_t MOST_USERS = recengine::retrieval::FEW_USERS;

  void run(int64_t first, int64_t last) {
    for (int64_t u = 0; u < users; ++u) {
      read_row(task.queries, u, state.query + u * d);
      state.threshold[u] = LOWEST;
      state.held[u] = state.weighed[u] = 0;
    }
    with_element(task.items.element,
                 [&](auto* kind) { scan(static_cast<decltype(kind)>(task.items.data), first, last); });
    for (int64_t u = 0; u < users; ++u) weigh(u);
  }
};

}  // namespace KERN_NS
