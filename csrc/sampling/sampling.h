// What the CPU kernels of negative sampling offer to their launcher (op_cpu.cpp). No torch here.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace recengine {

// Draw number `slot` of row `row` is a function of (seed, row, slot) alone: a counter is hashed, and hashed
// anew with the next attempt while the item drawn is one that the row's user met.
struct Draws {
  int64_t items, count;
  const float* keep;      // [items] with alias: cell c gives c with probability keep[c], else alias[c];
  const int32_t* alias;   // both null: every item alike
  const int64_t* indptr;  // items met by user u: met[indptr[u] : indptr[u + 1]], distinct; null: none
  const int32_t* met;
  uint64_t seed;
};

}  // namespace recengine

#define RECENGINE_SAMPLING_KERNELS                                                                           \
  /* The draws of one row, for `user` (-1: nothing is rejected). marks: (items + 63) / 64 words, all zero,    \
   and zero again afterwards. sums: room for [items] with an alias table, else null. False, and out not        \
   filled, where the table gives nothing to what the user did not meet. */                                     \
  bool draw_row(const ::recengine::Draws& d, int64_t row, int64_t user, int64_t* out, uint64_t* marks,         \
                double* sums);

RECENGINE_DECLARE(RECENGINE_SAMPLING_KERNELS)
