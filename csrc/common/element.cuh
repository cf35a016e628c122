// Elements of a tensor on a GPU as floats, whatever their dtype, and the stream of the caller.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "common/checks.h"

namespace recengine::cuda {

enum class Kind : int { f32, f16, bf16 };

inline Kind kind_of(const Tensor& t) {
  return t.scalar_type() == ScalarType::Float ? Kind::f32
         : t.scalar_type() == ScalarType::Half ? Kind::f16
                                               : Kind::bf16;
}
inline void check_floating(const char* op, const char* name, const Tensor& t) {
  RECENGINE_CHECK(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Half ||
                      t.scalar_type() == ScalarType::BFloat16,
                  op, ": ", name, " must be float32, float16 or bfloat16, found ", dtype_name(t));
}
inline void check_same_device(const char* op, const char* name, const Tensor& t, const Tensor& other) {
  RECENGINE_CHECK(t.is_cuda() && t.get_device_index() == other.get_device_index(), op, ": ", name,
                  " is on another device than the rest");
}
inline cudaStream_t stream_of(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

__device__ inline float get(const void* data, int64_t i, Kind kind) {
  if (kind == Kind::f32) return static_cast<const float*>(data)[i];
  if (kind == Kind::f16) return __half2float(static_cast<const __half*>(data)[i]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
}
__device__ inline void put(void* data, int64_t i, Kind kind, float x) {
  if (kind == Kind::f32)
    static_cast<float*>(data)[i] = x;
  else if (kind == Kind::f16)
    static_cast<__half*>(data)[i] = __float2half_rn(x);
  else
    static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(x);
}

// The sum over a warp, in every lane, in a fixed order.
__device__ inline float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

}  // namespace recengine::cuda
