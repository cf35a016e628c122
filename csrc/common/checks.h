// Checks at an operator's entry. Everything is checked before anything is allocated or launched: an
// error thrown inside a parallel loop would lose its message.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

namespace recengine {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_dim(const char* op, const char* name, const Tensor& t, int64_t dim) {
  STD_TORCH_CHECK(t.dim() == dim, op, ": ", name, " has ", t.dim(), " dimensions, expected ", dim);
}
inline void check_size(const char* op, const char* name, const Tensor& t, int64_t axis, int64_t size) {
  STD_TORCH_CHECK(t.size(axis) == size, op, ": ", name, " has size ", t.size(axis), " in dimension ", axis,
                  ", expected ", size);
}
inline void check_dtype(const char* op, const char* name, const Tensor& t, ScalarType expected, const char* expected_name) {
  STD_TORCH_CHECK(t.scalar_type() == expected, op, ": ", name, " must be ", expected_name);
}

}  // namespace recengine
