// From a checked two-dimensional tensor to what kernels read and write.
#pragma once

#include "common/checks.h"
#include "common/matrix.h"

namespace recengine {

inline bool is_float_or_bf16(const Tensor& t) {
  return t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::BFloat16;
}
inline void check_float_or_bf16(const char* op, const char* name, const Tensor& t) {
  RECENGINE_CHECK(is_float_or_bf16(t), op, ": ", name, " must be float32 or bfloat16 on the CPU, found ",
                  dtype_name(t));
}
inline void check_same_dtype(const char* op, const char* name, const Tensor& t, const char* other_name, const Tensor& other) {
  RECENGINE_CHECK(t.scalar_type() == other.scalar_type(), op, ": ", name, " and ", other_name,
                  " must have the same dtype, found ", dtype_name(t), " and ", dtype_name(other));
}
inline Matrix view(const Tensor& t) {
  return {t.const_data_ptr(), t.stride(0), t.stride(1), t.scalar_type() == ScalarType::BFloat16};
}
inline MutableMatrix mutable_view(const Tensor& t) {
  return {t.mutable_data_ptr(), t.stride(0), t.stride(1), t.scalar_type() == ScalarType::BFloat16};
}

}  // namespace recengine
