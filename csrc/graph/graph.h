// What the CPU kernels of sparse propagation offer to their launcher (op_cpu.cpp). No torch here.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/matrix.h"

namespace recengine {

// out[r] = row_scale[r] * sum over entries e of row r of values[e] * column_scale[columns[e]] * dense[columns[e]].
// What is null counts as one.
struct SparseProduct {
  const int64_t* indptr;   // [rows + 1]
  const int32_t* columns;  // [entries]
  const float* values;     // [entries] or null
  const float* row_scale;  // [rows] or null
  const float* column_scale;
  int64_t width;
};

}  // namespace recengine

#define RECENGINE_GRAPH_KERNELS                                                                              \
  /* Rows [begin, end) of the product; scratch holds two rows, each rounded up to 16 floats. */               \
  void sparse_rows(const ::recengine::SparseProduct& p, const ::recengine::Matrix& dense, int64_t begin,      \
                   int64_t end, const ::recengine::MutableMatrix& out, float* scratch);

RECENGINE_DECLARE(RECENGINE_GRAPH_KERNELS)
