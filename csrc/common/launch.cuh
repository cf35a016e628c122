// From stable tensors to launches: dtype dispatch, the current stream, the device of the call.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "common/checks.h"
#include "common/tile.cuh"

namespace recengine::cuda {

inline cudaStream_t current_stream(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

inline void check_device(const char* op, const char* name, const Tensor& t, const Tensor& like) {
  RECENGINE_CHECK(t.is_cuda() && t.get_device_index() == like.get_device_index(), op, ": ", name,
                  " must be on the CUDA device of the first argument");
}

template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
T* mutable_data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// Calls f(T{}) with the element type of t.
template <class F>
void by_dtype(const char* op, const char* name, const Tensor& t, F&& f) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return f(float{});
    case ScalarType::BFloat16: return f(__nv_bfloat16{});
    case ScalarType::Half: return f(__half{});
    default: RECENGINE_CHECK(false, op, ": ", name, " must be float32, bfloat16 or float16 on CUDA, found ",
                             dtype_name(t));
  }
}

}  // namespace recengine::cuda
