// The top-k of a handful of users: one pass over the item table where it lies. W items are turned into W lanes in
// registers, scored for every user while they are there, and what reaches a user's running threshold is kept.
#pragma once

#include "common/rows.h"
#include "common/small_gemm.h"
#include "retrieval/topk_cpu.h"

namespace KERN_NS {

// What one worker holds for its part of the items.
struct FewState {
  static constexpr int64_t PENDING = 256;
  static constexpr int64_t AHEAD = 4096;  // bytes of the table asked for before they are read

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

#if defined(__AVX512F__)
// Columns [j, j + W) of W rows, `step` apart, as rows of `to`.
RE_INLINE void turn(const float* rows, int64_t step, float* to) { transpose_block(rows, step, to, W); }
RE_INLINE void turn(const uint16_t* rows, int64_t step, float* to) {
  alignas(64) float wide[W * W];
  for (int r = 0; r < W; ++r) store(wide + r * W, load_bf16(rows + r * step));
  transpose_block(wide, W, to, W);
}
#else
RE_INLINE vf load_lanes(const float* p) { return load(p); }
RE_INLINE vf load_lanes(const uint16_t* p) { return load_bf16(p); }
template <class T>
RE_INLINE void turn(const T* rows, int64_t step, float* to) {
  vf v[W];
  for (int r = 0; r < W; ++r) v[r] = load_lanes(rows + r * step);
  transpose(v);
  for (int r = 0; r < W; ++r) store(to + r * W, v[r]);
}
#endif

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

  // The scores of n <= W items from `row` on. Fewer than W: no vector reaches behind the last row.
  template <class T>
  RE_INLINE void score_lanes(const T* row, int64_t n, vf* score) {
    const int64_t step = task.items.row_stride, whole = n == W ? d / W * W : 0;
    for (int64_t u = 0; u < users; ++u) score[u] = vf{};
    alignas(64) float column[W * W];
    for (int64_t j = 0; j < whole; j += W) {
      for (int r = 0; r < W; ++r)
        __builtin_prefetch(reinterpret_cast<const char*>(row + r * step + j) + FewState::AHEAD, 0, 3);
      turn(row + j, step, column);
      for (int64_t u = 0; u < users; ++u) {
        const float* q = state.query + u * d + j;
        vf sum = score[u];
#pragma GCC unroll 16
        for (int c = 0; c < W; ++c) sum = chain(load(column + c * W), q[c], sum);
        score[u] = sum;
      }
    }
    for (int64_t j = whole; j < d; ++j) {
      for (int64_t r = 0; r < W; ++r) column[r] = r < n ? widen(row[r * step + j]) : 0.f;
      const vf v = load(column);
      for (int64_t u = 0; u < users; ++u) score[u] = chain(v, state.query[u * d + j], score[u]);
    }
  }

  template <class T>
  void scan(const T* table, int64_t first, int64_t last) {
    vf score[MOST_USERS];
    for (int64_t i = first; i < last; i += W) {
      const int64_t n = last - i < W ? last - i : W;
      score_lanes(table + i * task.items.row_stride, n, score);
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
