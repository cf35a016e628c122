// Exact attention of one head of one packed sequence, as the kernels see it (no torch here).
//
//   softmax   O_i = sum_j p_ij v_j      p_ij = exp(scale q_i . k_j) / sum_j exp(scale q_i . k_j)
//   gated     O_i = sum_j w_ij v_j      w_ij = share silu(q_i . k_j + b(i - j) + b'(bucket of t_i - t_j)),  j <= i
//
// A head is worked through in blocks of queries, each of which meets all the keys that it sees: weights of a block stay in
// cache, nothing of the size of all of them is made. One thread works on a head, so bits do not depend on how many there are.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/matrix.h"

namespace recengine {

inline constexpr int64_t PACKED_MAX_D = 128;
inline constexpr int64_t PACKED_PANEL = 64;    // keys of a panel that lies across
inline constexpr int64_t PACKED_BUCKETS = 64;  // of log2(1 + time): all that int64 can hold

// Where the head begins whose turn is next, and how many rows it has: what is fetched ahead. Null and 0: there is none.
struct PackedNext {
  const void *q, *k, *v, *grad;
  int64_t asked, n;
};

struct PackedHead {
  Matrix q, k, v;  // [asked, d], [n, d], [n, d]
  int64_t n, asked, d;
  const int64_t* wanted;  // the row of each query, counted from `first`; null: queries are all the rows
  int64_t first;
  bool causal;
  PackedNext next;
  MutableMatrix out;  // forward
  Matrix grad;        // backward: dL/dO
  MutableMatrix dq, dk, dv;
  // softmax
  float scale;
  // gated
  const float* by_distance;  // of distance x at by_distance[limit - 1 - x]; as many lanes of zeros behind
  int64_t limit;
  const int64_t* times;  // [n], or null: no b'
  const float* by_time;  // [PACKED_BUCKETS]
  float share;
  float* d_distance;  // what this head adds, laid as the tables are
  double* d_time;
};

inline int64_t packed_padded(int64_t n) { return (n + 15) / 16 * 16; }

// Queries of a block: as many as keep two blocks of weights in the second-level cache.
inline int64_t packed_block(int64_t n) {
  const int64_t rows = 24576 / packed_padded(n < 1 ? 1 : n) / 12 * 12;
  return rows < 12 ? 12 : rows > 96 ? 96 : rows;
}

// Floats of scratch that one worker needs.
inline int64_t packed_scratch(int64_t n, int64_t d, bool backward) {
  const int64_t np = packed_padded(n), dp = packed_padded(d), rows = packed_block(n);
  return (backward ? 6 : 3) * np * dp + 2 * rows * np + 3 * rows * dp + rows + 16;
}

}  // namespace recengine

RECENGINE_DECLARE(void softmax_attention_forward(const recengine::PackedHead& head, float* scratch);
                  void softmax_attention_backward(const recengine::PackedHead& head, float* scratch);
                  void gated_attention_forward(const recengine::PackedHead& head, float* scratch);
                  void gated_attention_backward(const recengine::PackedHead& head, float* scratch);)
