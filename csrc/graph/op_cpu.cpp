#include "graph/graph.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>

#include "common/views.h"
#include "common/worker_memory.h"

namespace recengine {
namespace {

using Maybe = std::optional<Tensor>;

const float* floats(const char* op, const char* name, const Maybe& t, int64_t size) {
  if (!t) return nullptr;
  check_dim(op, name, *t, 1);
  check_size(op, name, *t, 0, size);
  check_dtype(op, name, *t, ScalarType::Float, "float32");
  RECENGINE_CHECK(size <= 1 || t->stride(0) == 1, op, ": ", name, " must be contiguous");
  return static_cast<const float*>(t->const_data_ptr());
}

// The rows before which piece k of `pieces` begins: pieces hold about equally many entries.
int64_t first_row(const int64_t* indptr, int64_t rows, int64_t k, int64_t pieces) {
  if (k >= pieces) return rows;
  const int64_t entry = indptr[rows] * k / pieces;
  return std::min<int64_t>(std::lower_bound(indptr, indptr + rows + 1, entry) - indptr, rows);
}

// The transposed matrix is there for the backward pass, which is this operator with the two exchanged.
Tensor csr_matmul(const Tensor& indptr, const Tensor& columns, Maybe values, Maybe row_scale, Maybe column_scale,
                  const Tensor&, const Tensor&, Maybe, const Tensor& dense) {
  const char* op = "csr_matmul";
  check_dim(op, "indptr", indptr, 1);
  check_dtype(op, "indptr", indptr, ScalarType::Long, "int64");
  check_dim(op, "columns", columns, 1);
  check_dtype(op, "columns", columns, ScalarType::Int, "int32");
  check_dim(op, "dense", dense, 2);
  check_float_or_bf16(op, "dense", dense);
  const int64_t rows = indptr.numel() - 1, entries = columns.numel(), width = dense.size(1), nodes = dense.size(0);
  RECENGINE_CHECK(rows >= 0, op, ": indptr is empty, expected one more element than there are rows");
  RECENGINE_CHECK((rows < 1 || indptr.stride(0) == 1) && (entries <= 1 || columns.stride(0) == 1), op,
                  ": indptr and columns must be contiguous");
  const int64_t* begins = static_cast<const int64_t*>(indptr.const_data_ptr());
  const int32_t* column = static_cast<const int32_t*>(columns.const_data_ptr());
  RECENGINE_CHECK(begins[0] == 0 && begins[rows] == entries, op, ": indptr must run from 0 to ", entries, ", found ",
                  begins[0], " and ", begins[rows]);
  for (int64_t r = 0; r < rows; ++r) RECENGINE_CHECK(begins[r] <= begins[r + 1], op, ": indptr falls at ", r + 1);
  uint32_t largest = 0;
  for (int64_t e = 0; e < entries; ++e) largest = std::max(largest, static_cast<uint32_t>(column[e]));
  RECENGINE_CHECK(entries == 0 || largest < static_cast<uint64_t>(nodes), op, ": a column is ",
                  static_cast<int32_t>(largest), ", expected 0 to ", nodes - 1);
  const SparseProduct p{begins,
                        column,
                        floats(op, "values", values, entries),
                        floats(op, "row_scale", row_scale, rows),
                        floats(op, "column_scale", column_scale, nodes),
                        width};
  Tensor out = torch::stable::new_empty(dense, {rows, width});
  const Matrix from = view(dense);
  const MutableMatrix to = mutable_view(out);
  const int64_t pieces = std::min<int64_t>(rows, 256);
  torch::stable::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = first_row(begins, rows, begin, pieces), last = first_row(begins, rows, end, pieces);
    if (first < last) RECENGINE_PICK(sparse_rows)(p, from, first, last, to, worker_memory(2 * ((width + 15) / 16 * 16)));
  });
  return out;
}

}  // namespace
}  // namespace recengine

STABLE_TORCH_LIBRARY_IMPL(recengine, CPU, lib) { lib.impl("csr_matmul", TORCH_BOX(&recengine::csr_matmul)); }
