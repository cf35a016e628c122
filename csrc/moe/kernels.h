// What the CPU kernels of the mixture of experts offer to their launcher (op_cpu.cpp). No torch here.
#pragma once

#include <cstdint>

#include "common/matrix.h"

namespace recengine {

// One expert of one token position: y = (swish(x gate) * (x up)) down.
struct Expert {
  Matrix gate, up, down;  // [width][hidden] twice, [hidden][width]
  const float* packed;    // the same as swiglu_pack lays it out, or null
  int64_t width, hidden;
};

// The rows that an expert works on: row i is row index[i] of the caller's matrix, its output counts scale[i].
struct ExpertRows {
  const int64_t* index;
  const float* scale;  // null: all one
  int64_t count;
  float* prepared = nullptr;  // all of the caller's rows as swiglu_prepare lays them out, or null
  bool prepare = false;       // the expert, which works on all rows in order, is to lay them out there
  bool fresh = false;         // nobody has added to these rows' sums, which hold anything: they are written
  float* kept = nullptr;      // where the forward pass leaves what lies before the activation and the backward pass
                              // reads it (swiglu_kept_size), or null: then it is made again
};

struct ExpertGradient {  // all float32; contiguous unless `step` says otherwise
  float *gate, *up, *down;
  bool fresh;  // written instead of added to
  int64_t step = 0;  // floats between rows of gate and up, where they are part of wider ones
};

struct Router {
  Matrix x;             // the rows of one token position
  const float* weight;  // as router_pack laid it out
  int64_t rows, width, experts, k;
};

}  // namespace recengine

#define RECENGINE_MOE_KERNELS                                                                                \
  /* Floats: of one packed expert; of scratch for `rows` rows at a time; of a padded output row. bf16: whether */ \
  /* all weights (for scratch: rows too) are bfloat16. */                                                    \
  int64_t swiglu_packed_size(int64_t width, int64_t hidden, bool bf16);                                      \
  /* Floats of what lies before the activation of 32 rows (ExpertRows.kept). */                               \
  int64_t swiglu_kept_size(int64_t hidden);                                                                  \
  int64_t swiglu_forward_scratch(int64_t width, int64_t hidden, int64_t rows, bool bf16);                    \
  int64_t swiglu_backward_scratch(int64_t width, int64_t hidden, int64_t rows, bool bf16);                   \
  int64_t swiglu_row_size(int64_t width);                                                                    \
  void swiglu_pack(const ::recengine::Expert& e, float* packed);                                             \
  /* Rows [first, last) of x, of which several experts read some each: floats of what is prepared (0: such experts */ \
  /* prepare theirs themselves). */                                                                          \
  int64_t swiglu_prepared_size(int64_t width, int64_t hidden, int64_t rows, bool bf16);                      \
  void swiglu_prepare(const ::recengine::Matrix& x, int64_t first, int64_t last, int64_t width, float* to);  \
  /* Adds the expert's scaled outputs to sum[index - first] (rows of swiglu_row_size), or writes them (rows.fresh). */ \
  void swiglu_forward(const ::recengine::Expert& e, const ::recengine::Matrix& x,                            \
                      const ::recengine::ExpertRows& rows, int64_t first, float* sum, float* scratch);       \
  /* Adds to (rows.fresh: writes) x_grad[index - first], adds to the gradients of weights, and writes the */    \
  /* gradient of the scales to scale_grad[i] unless null. */                                                 \
  void swiglu_backward(const ::recengine::Expert& e, const ::recengine::Matrix& x,                           \
                       const ::recengine::Matrix& grad, const ::recengine::ExpertRows& rows, int64_t first,  \
                       float* x_grad, const ::recengine::ExpertGradient& weights, float* scale_grad,         \
                       float* scratch);                                                                      \
  /* Rows [first, last) side by side as floats; the matrix that they are, with their old numbers. */          \
  ::recengine::Matrix copy_rows(const ::recengine::Matrix& from, int64_t first, int64_t last, int64_t width, float* to); \
  void write_rows(const float* sum, int64_t first, int64_t last, int64_t width,                              \
                  const ::recengine::MutableMatrix& to);                                                     \
  /* n floats as bfloat16, past the cache: gradients of weights, which nobody reads before the pass has ended. */ \
  void round_past(const float* from, int64_t n, uint16_t* to);                                               \
  int64_t router_size(int64_t width, int64_t experts); /* floats of a packed router */                       \
  void router_pack(const ::recengine::Matrix& weight, int64_t width, int64_t experts, float* packed);        \
  /* Row r: the k experts with the largest logits (ties: the smaller id), and the softmax over them. */        \
  int64_t route_scratch(int64_t width, int64_t experts);                                                      \
  void route_rows(const ::recengine::Router& r, int64_t begin, int64_t end, int64_t out_step,                \
                  int64_t* experts, float* gates, float* scratch);                                           \
  /* The router by experts, [experts][router_line(width)]: what route_backward reads. */                     \
  int64_t router_line(int64_t width);                                                                        \
  void router_pack_across(const ::recengine::Matrix& weight, int64_t width, int64_t experts, float* packed); \
  /* x_grad rows are written, weight_grad [experts][router_line(width)] is added to; scratch: two lines. */  \
  void route_backward(const ::recengine::Router& r, int64_t out_step, const int64_t* experts,                \
                      const float* gates, const float* gates_grad, float* x_grad, int64_t x_step,            \
                      float* weight_grad, float* scratch);
