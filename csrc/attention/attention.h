// Cosine linear attention of one head of one sequence, as the kernels see it (no torch here).
//
//   O_i = c_i q_i . sum_j a_j k_j v_j^T      q, k: rows scaled to length 1, after elu if `elu`
//
// c (a scale of the query row) and a (a scale of the key row) are 1 or a constant, or, in a causal head,
// read from a table by the number of valid positions up to the row. Rows that the mask drops give zero
// and take no part. A head is worked through in blocks of 64 rows; a long one is cut into sections of
// SECTION rows whose partial sums are added in order, so that threads can share a head and the bits do
// not depend on how many did.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace recengine {

inline constexpr int64_t ATTENTION_BLOCK = 64;
inline constexpr int64_t ATTENTION_SECTION = 512;
inline constexpr int64_t ATTENTION_MAX_D = 128;

// Rows of a sequence, whole and with all heads: memory in one piece where the tensor is contiguous.
struct AttentionShare {
  const char* at;
  int64_t rows, stride, bytes;
};

struct AttentionHead {
  const void *q, *k, *v;  // first row
  int64_t row, elem;      // strides of k and v in elements
  int64_t q_row, q_elem;  // strides of q
  void* out;              // rows of d contiguous elements
  int64_t out_row;
  const void* grad;  // backward only: dL/dO, dq, dk, dv (contiguous rows)
  int64_t grad_row, grad_elem;
  void *dq, *dk, *dv;
  int64_t dq_row, d_row;  // of dq; of dk and dv
  const uint8_t* mask;  // null: every row is valid
  int64_t mask_step;
  int64_t n, d;
  int64_t asked;  // rows of q (and out, grad, dq): n, but in a bidirectional head of which only some rows ask
  // This head's share of the rows of the next sequence, fetched while this one is worked on: what is read (qkv),
  // what is written (out, or the gradient of qkv), and the gradient of the output. No rows: nothing to fetch.
  AttentionShare next_in, next_out, next_grad;
  int64_t limit;             // rows from here on are padding
  float scale;               // the constant c
  const float* by_count;     // causal: scale of a row by its number of valid positions, or null
  const float* log_count;    // ln of that number, for the gradient of the exponent
  bool on_key;               // by_count belongs to the key row (a), not to the query row (c)
  bool elu, bf16, causal;
};

inline int64_t padded16(int64_t n) { return (n + 15) / 16 * 16; }

// Floats of scratch that one worker needs for heads of size d.
inline int64_t attention_scratch(int64_t d) {
  const int64_t dp = padded16(d), rows = ATTENTION_MAX_D;
  return 6 * rows * dp + 5 * dp * dp + 2 * rows * rows + 8 * rows;
}

// Whether a head of n rows, `asked` of which ask, is cheaper by way of the asked x n matrix of similarities.
inline bool attention_square(int64_t n, int64_t asked, int64_t d, bool causal) {
  if (asked == n) return !causal && padded16(n) < padded16(d);
  return n <= ATTENTION_MAX_D && asked <= ATTENTION_MAX_D && 2 * asked * padded16(n) < (asked + n) * padded16(d);
}

}  // namespace recengine

// All matrices are [dp, dp] with dp = padded16(d), row-major and contiguous.
RECENGINE_DECLARE(
    // Drops invalid rows at both ends (their outputs, or gradients, are set to zero) and the mask, when
    // no hole remains. Returns the number of valid rows.
    int64_t attention_trim(recengine::AttentionHead& head, bool backward);
    // sum += of rows [begin, end): k^T v (bidirectional state).
    void attention_state(const recengine::AttentionHead& head, int64_t begin, int64_t end, float* sum, float* scratch);
    void attention_apply(const recengine::AttentionHead& head, int64_t begin, int64_t end, const float* state,
                         float* scratch);
    // The order by way of the similarities, whole head.
    void attention_square_forward(const recengine::AttentionHead& head, float* scratch);
    double attention_square_backward(const recengine::AttentionHead& head, float* scratch);
    // dq, and sum += c q^T g. Both return sum_i w_i g_i . o_i with w = 1 or log_count.
    double attention_query_backward(const recengine::AttentionHead& head, int64_t begin, int64_t end,
                                    const float* state, float* sum, float* scratch);
    void attention_key_backward(const recengine::AttentionHead& head, int64_t begin, int64_t end, const float* sum,
                                float* scratch);
    // Causal: `before` holds the sums of the sections before (query side) or behind (key side) this one;
    // `own` receives this section's.
    void attention_causal_forward(const recengine::AttentionHead& head, int64_t begin, int64_t end,
                                  const float* before, float* own, float* scratch);
    double attention_causal_query_backward(const recengine::AttentionHead& head, int64_t begin, int64_t end,
                                           const float* before, float* own, float* scratch);
    double attention_causal_key_backward(const recengine::AttentionHead& head, int64_t begin, int64_t end,
                                         const float* behind, float* own, float* scratch);
    // The section's sums alone (k^T v, or q^T g), for threads that share a head.
    void attention_causal_sum(const recengine::AttentionHead& head, int64_t begin, int64_t end, bool of_gradient,
                              float* own, float* scratch);)
