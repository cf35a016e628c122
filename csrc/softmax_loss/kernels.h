// What the CPU kernels of the softmax losses offer to their launcher (op_cpu.cpp). No torch here.
#pragma once

#include <cstdint>

#include "common/matrix.h"

namespace recengine {

// Linear cross-entropy: logit(r, v) = scale * <hidden_r, weight_v> + bias_v, loss_r = lse_r - logit(r, y_r).
// Only rows that count take part: row i here is row index[i] of the caller's tensors.
struct CatalogueLoss {
  Matrix hidden, weight;
  const float* bias;        // [items] or null
  const int64_t* index;     // [rows]
  const int64_t* target;    // [rows]: an item each, or -1 where only the log-sum-exp is asked for
  const int64_t* row_key;   // [rows] and [items], or null: an item with the key of a row is left out of that
  const int64_t* item_key;  // row, unless it is the row's target
  float scale;
  int64_t rows, items, width;
  float* logits = nullptr;  // where the forward pass keeps them for the backward one, in whole tiles, or null
};

// How the work is cut: constants of an instruction set, so the cut never depends on the threads.
struct CatalogueTiles {
  int64_t row_tile;  // rows that one backward step takes
  int64_t most_rows;  // that one call takes; a multiple of row_tile
  int64_t items;     // items that one step takes
  int64_t panel;     // columns of a panel: widths are padded to a multiple
};

// Floats of scratch that a call needs, and those of the panels of one backward step's rows.
struct CatalogueScratch {
  int64_t forward, backward, left, right;
};

// Sampled log-sum-exp: entry (b, j) has the logit inverse_b * <anchor_b, table_n> + log_weight_bj with
// n = id(b, j); ids below zero, and ids equal to exclude_b, take no part.
struct SampledLogSumExp {
  Matrix anchors, table;
  const int64_t* negatives;
  int64_t negatives_row, negatives_col;
  const int64_t* positives;   // [rows] or null: one more entry a row, the last, without a weight
  const int64_t* exclude;     // [rows] or null
  const float* log_weight;    // or null
  int64_t weight_row, weight_col;
  const float* inverse;       // [rows], one over the temperature
  int64_t rows, count, width;  // count: negatives of a row

  // Always inlined: a copy compiled for one instruction set must not serve another.
  [[gnu::always_inline]] int64_t entries() const { return count + (positives ? 1 : 0); }
  [[gnu::always_inline]] int64_t id(int64_t b, int64_t j) const {
    const int64_t n = j < count ? negatives[b * negatives_row + j * negatives_col] : positives[b];
    return n >= 0 && exclude && j < count && n == exclude[b] ? -1 : n;
  }
};

// Logits that exist already, [rows][count]: entry (b, j) takes part where live is null or live[b, j] is not zero.
struct GivenLogits {
  Matrix logits;
  const uint8_t* live;
  int64_t live_row, live_col;
  int64_t rows, count;
};

// Sampled entries against each row's target, [rows][count]; likeness is read where its share is not zero.
struct CompetingEntries {
  Matrix scores, likeness;
  const uint8_t* live;
  int64_t live_row, live_col;
  int64_t rows, count, slate;     // slate: at most count
  float hardness, likeness_share;  // of an entry's weight before it is scaled to a mean of one
  float inverse;                   // one over the temperature
};

}  // namespace recengine

#define RECENGINE_SOFTMAX_LOSS_KERNELS                                                                      \
  ::recengine::CatalogueTiles catalogue_tiles();                                                            \
  ::recengine::CatalogueScratch catalogue_scratch(const ::recengine::CatalogueLoss& p);                     \
  /* Rows [row, row + row_tile) as operands of the logits (left) and, unless null, of the items' gradient */ \
  /* (right). Rows past the end are zero. */                                                                \
  void catalogue_pack_rows(const ::recengine::CatalogueLoss& p, int64_t row, float* left, float* right);    \
  /* Over item blocks [block, block_end): per row the largest logit and the sum of exp(logit - largest). */ \
  void catalogue_forward(const ::recengine::CatalogueLoss& p, const float* left, int64_t row, int64_t rows, \
                         int64_t block, int64_t block_end, float* largest, float* sum, float* scratch);     \
  /* loss and log-sum-exp of one row from its parts. */                                                     \
  void catalogue_finish(const ::recengine::CatalogueLoss& p, int64_t row, const float* largest,             \
                        const float* sum, int64_t parts, int64_t stride, float* loss, float* lse,           \
                        float* scratch);                                                                    \
  /* Over item blocks: the gradient of the logits is spread * softmax - hit * [item is target]. */          \
  /* hidden_part [rows][padded width] is added to, weight_sum [items][width] and bias_sum [items] too (set */ \
  /* where first). lse, spread and hit are by row of the chunk; lse is infinite where a row has no item. */ \
  void catalogue_backward(const ::recengine::CatalogueLoss& p, const float* left, const float* right,       \
                          int64_t row, int64_t rows, int64_t block, int64_t block_end, const float* lse,    \
                          const float* spread, const float* hit, float* hidden_part, float* weight_sum,     \
                          float* bias_sum, bool first, float* scratch);                                     \
  /* One row of the gradient of hidden from its parts. */                                                   \
  void catalogue_sum_parts(const float* parts, int64_t count, int64_t stride, int64_t width,                \
                           const ::recengine::MutableMatrix& out, int64_t out_row, float* scratch);                                                                              \
  int64_t sampled_scratch(const ::recengine::SampledLogSumExp& p);                                          \
  float sampled_forward(const ::recengine::SampledLogSumExp& p, int64_t b, float* scratch);                 \
  /* The inner products of one anchor with its entries; 0 where there is none. */                           \
  void sampled_scores(const ::recengine::SampledLogSumExp& p, int64_t b, float* scores, float* scratch);    \
  /* One row of the anchors' gradient of those products: the entries' rows, each times coefficient and one over  \
   the temperature. */                                                                                      \
  void sampled_weigh(const ::recengine::SampledLogSumExp& p, int64_t b, const float* coefficient,           \
                     const ::recengine::MutableMatrix& anchor_grad, float* scratch);                        \
  /* share [entries] gets the softmax times grad; the gradients of the anchor, of the logits' weights (share */ \
  /* again) and of one over the temperature (returned) follow from it. */                                   \
  float sampled_backward(const ::recengine::SampledLogSumExp& p, int64_t b, float lse, float grad,          \
                         float* share, const ::recengine::MutableMatrix& anchor_grad, float* scratch);      \
  void sampled_read_anchor(const ::recengine::SampledLogSumExp& p, int64_t b, float* to);                   \
  /* Rows of the gradient of the table: item i is the sum of coefficient * anchor over its entries. */      \
  void sampled_table_row(const float* anchors, int64_t width, const int32_t* row, const float* coefficient, \
                         int64_t count, int64_t item, const ::recengine::MutableMatrix& table_grad,         \
                         float* scratch);                                                                  \
  /* Log-sum-exp of the live entries of row b, and its gradient for those logits: grad * softmax, 0 elsewhere. */ \
  int64_t given_scratch(const ::recengine::GivenLogits& p);                                                 \
  float given_forward(const ::recengine::GivenLogits& p, int64_t b, float* scratch);                        \
  void given_backward(const ::recengine::GivenLogits& p, int64_t b, float lse, float grad,                  \
                      const ::recengine::MutableMatrix& logits_grad, float* scratch);                       \
  /* Row b: log_weight [count], slate [slate], the mean of sigmoid((score - positive) / temperature) over the */ \
  /* slate's live entries and their least score (0 and -1 where there is none). */                          \
  int64_t competing_scratch(const ::recengine::CompetingEntries& p);                                        \
  void competing_row(const ::recengine::CompetingEntries& p, int64_t b, float positive, float* log_weight,  \
                     int64_t* slate, float* intensity, float* least, float* scratch);
