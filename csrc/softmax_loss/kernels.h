// What the CPU kernels of the softmax losses offer to their launcher (op_cpu.cpp). No torch here.
#pragma once

#include <cstdint>

#include "common/matrix.h"

namespace recengine {

// Linear cross-entropy: logit(r, v) = scale * <hidden_r, weight_v> + bias_v, loss_r = lse_r - logit(r, y_r).
// Only rows that count take part: row i here is row index[i] of the caller's tensors.
struct CatalogueLoss {
  Matrix hidden, weight;
  const float* bias;      // [items] or null
  const int64_t* index;   // [rows]
  const int64_t* target;  // [rows], an item each
  float scale;
  int64_t rows, items, width;
};

// How the work is cut: constants of an instruction set, so the cut never depends on the threads.
struct CatalogueTiles {
  int64_t group;     // rows of one panel of hidden rows
  int64_t row_tile;  // rows that one backward step takes; a multiple of group
  int64_t items;     // items that one step takes
  int64_t panel;     // columns of a panel: widths are padded to a multiple
};

// Floats of scratch that a call needs.
struct CatalogueScratch {
  int64_t forward, backward;
};

}  // namespace recengine

#define RECENGINE_SOFTMAX_LOSS_KERNELS                                                                      \
  ::recengine::CatalogueTiles catalogue_tiles();                                                            \
  ::recengine::CatalogueScratch catalogue_scratch(const ::recengine::CatalogueLoss& p);                     \
  /* Rows [row, row + row_tile) as panels: left [row_tile/group][width][group], and, unless null, right */ \
  /* [width/panel][row_tile][panel], multiplied by the scale. Rows past the end are zero. */                \
  void catalogue_pack_rows(const ::recengine::CatalogueLoss& p, int64_t row, float* left, float* right);    \
  /* Over item blocks [block, block_end): per row the largest logit and the sum of exp(logit - largest). */ \
  void catalogue_forward(const ::recengine::CatalogueLoss& p, const float* left, int64_t row, int64_t rows, \
                         int64_t block, int64_t block_end, float* largest, float* sum, float* scratch);     \
  /* loss and log-sum-exp of one row from its parts. */                                                     \
  void catalogue_finish(const ::recengine::CatalogueLoss& p, int64_t row, const float* largest,             \
                        const float* sum, int64_t parts, int64_t stride, float* loss, float* lse,           \
                        float* scratch);                                                                    \
  /* Over item blocks: hidden_part [rows][padded width] is added to, weight_sum [items][width] and */       \
  /* bias_sum [items] are added to (set where first). lse and grad are by row of the problem. */            \
  void catalogue_backward(const ::recengine::CatalogueLoss& p, const float* left, const float* right,       \
                          int64_t row, int64_t rows, int64_t block, int64_t block_end, const float* lse,    \
                          const float* grad, float* hidden_part, float* weight_sum, float* bias_sum,        \
                          bool first, float* scratch);                                                      \
  /* One row of the gradient of hidden from its parts. */                                                   \
  void catalogue_sum_parts(const float* parts, int64_t count, int64_t stride, int64_t width,                \
                           const ::recengine::MutableMatrix& out, int64_t out_row, float* scratch);
