// Token mixing on a GPU: one block a row of the output (forward) or a sample (backward). Not yet run on a GPU.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "common/element.cuh"

namespace recengine::cuda {
namespace {

using Maybe = std::optional<Tensor>;
constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

struct View {
  void* data = nullptr;
  int64_t sample = 0, row = 0, col = 0;
  Kind kind = Kind::f32;
};
View view(const Tensor& t) {
  return {const_cast<void*>(t.const_data_ptr()), t.stride(0), t.stride(1), t.stride(2), kind_of(t)};
}
View view(const Maybe& t) { return t ? view(*t) : View{}; }

__device__ float at(const View& v, int64_t b, int64_t r, int64_t c) {
  return get(v.data, b * v.sample + r * v.row + c * v.col, v.kind);
}
__device__ void set(const View& v, int64_t b, int64_t r, int64_t c, float x) {
  put(v.data, b * v.sample + r * v.row + c * v.col, v.kind, x);
}

struct Call {
  int64_t samples, tokens, heads, part, width;
  View x, residual, normed, mixed, grad_normed, grad_mixed, saved, dx, dresidual;
  const void* weight;
  int64_t weight_step;
  Kind weight_kind;
  float* rstd;
  float eps;
  bool own;
};

// s[h, i] of sample b.
__device__ float mixed_at(const Call& c, int64_t b, int64_t h, int64_t i) {
  if (c.saved.data) return at(c.saved, b, h, i);
  float s = at(c.x, b, i / c.part, h * c.part + i % c.part);
  if (c.own) s += at(c.x, b, h, i);
  if (c.residual.data) s += at(c.residual, b, h, i);
  return s;
}

// The sum over the block in a fixed order, in every thread.
__device__ float block_sum(float x) {
  __shared__ float parts[WARPS];
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < WARPS; ++w) sum += parts[w];
  __syncthreads();
  return sum;
}

__global__ void __launch_bounds__(THREADS) forward_kernel(Call c) {
  const int64_t b = blockIdx.x / c.heads, h = blockIdx.x % c.heads;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < c.width; i += THREADS) {
    const float s = mixed_at(c, b, h, i);
    squares += s * s;
    if (c.mixed.data) set(c.mixed, b, h, i, s);
  }
  if (!c.normed.data) return;
  const float r = 1.f / sqrtf(block_sum(squares) / static_cast<float>(c.width) + c.eps);
  if (threadIdx.x == 0) c.rstd[b * c.heads + h] = r;
  for (int64_t i = threadIdx.x; i < c.width; i += THREADS)
    set(c.normed, b, h, i, mixed_at(c, b, h, i) * r * get(c.weight, i * c.weight_step, c.weight_kind));
}

// The gradient of s, float32 [samples, heads, width].
__global__ void __launch_bounds__(THREADS) row_gradient_kernel(Call c, float* ds) {
  const int64_t b = blockIdx.x / c.heads, h = blockIdx.x % c.heads;
  float* to = ds + blockIdx.x * c.width;
  float dot = 0, r = 0;
  if (c.grad_normed.data) {
    r = c.rstd[b * c.heads + h];
    for (int64_t i = threadIdx.x; i < c.width; i += THREADS)
      dot += at(c.grad_normed, b, h, i) * get(c.weight, i * c.weight_step, c.weight_kind) * mixed_at(c, b, h, i) * r;
    dot = block_sum(dot) / static_cast<float>(c.width);
  }
  for (int64_t i = threadIdx.x; i < c.width; i += THREADS) {
    float d = 0;
    if (c.grad_normed.data)
      d = r * (at(c.grad_normed, b, h, i) * get(c.weight, i * c.weight_step, c.weight_kind) -
               mixed_at(c, b, h, i) * r * dot);
    if (c.grad_mixed.data) d += at(c.grad_mixed, b, h, i);
    to[i] = d;
    if (c.dresidual.data) set(c.dresidual, b, h, i, d);
  }
}

__global__ void __launch_bounds__(THREADS) input_gradient_kernel(Call c, const float* ds) {
  const int64_t b = blockIdx.x / c.tokens, t = blockIdx.x % c.tokens, d = c.heads * c.part;
  const float* sample = ds + b * c.heads * c.width;
  for (int64_t j = threadIdx.x; j < d; j += THREADS) {
    float g = sample[(j / c.part) * c.width + t * c.part + j % c.part];
    if (c.own) g += sample[t * c.width + j];
    set(c.dx, b, t, j, g);
  }
}

// parts[run, i]: the weight's gradient over the rows of one run, in order.
__global__ void __launch_bounds__(THREADS) weight_gradient_kernel(Call c, int64_t run, float* parts) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (i >= c.width) return;
  const int64_t rows = c.samples * c.heads, begin = blockIdx.y * run, end = begin + run < rows ? begin + run : rows;
  float sum = 0;
  for (int64_t row = begin; row < end; ++row)
    sum += at(c.grad_normed, row / c.heads, row % c.heads, i) * mixed_at(c, row / c.heads, row % c.heads, i) * c.rstd[row];
  parts[blockIdx.y * c.width + i] = sum;
}
__global__ void __launch_bounds__(THREADS) add_parts_kernel(const float* parts, int64_t count, int64_t width, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (i >= width) return;
  float sum = 0;
  for (int64_t p = 0; p < count; ++p) sum += parts[p * width + i];
  out[i] = sum;
}

unsigned blocks(int64_t n) { return static_cast<unsigned>((n + THREADS - 1) / THREADS); }

void check_like(const char* op, const char* name, const Maybe& t, const Tensor& x, int64_t rows, int64_t width) {
  if (!t) return;
  check_dim(op, name, *t, 3);
  check_size(op, name, *t, 0, x.size(0));
  check_size(op, name, *t, 1, rows);
  check_size(op, name, *t, 2, width);
  check_dtype(op, name, *t, x.scalar_type(), "of x's dtype");
  check_same_device(op, name, *t, x);
}
void check_weight(const char* op, const Maybe& weight, const Tensor& x, int64_t width, Call& c) {
  if (!weight) return;
  check_dim(op, "weight", *weight, 1);
  check_size(op, "weight", *weight, 0, width);
  check_floating(op, "weight", *weight);
  check_same_device(op, "weight", *weight, x);
  c.weight = weight->const_data_ptr();
  c.weight_step = weight->stride(0);
  c.weight_kind = kind_of(*weight);
}
void check_grid(const char* op, int64_t rows) {
  RECENGINE_CHECK(rows < (int64_t{1} << 31), op, ": x has ", rows, " rows in all, expected fewer than 2^31");
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, Maybe residual, Maybe weight, int64_t heads, double eps,
                                           bool keep_mixed, bool own_residual) {
  const char* op = "token_mixing";
  check_dim(op, "x", x, 3);
  check_floating(op, "x", x);
  RECENGINE_CHECK(heads >= 1 && x.size(2) % heads == 0, op, ": x has ", x.size(2), " features, not a multiple of ",
                  heads, " heads");
  Call c{};
  c.samples = x.size(0), c.tokens = x.size(1), c.heads = heads, c.part = x.size(2) / heads;
  c.width = c.tokens * c.part;
  check_like(op, "residual", residual, x, heads, c.width);
  check_weight(op, weight, x, c.width, c);
  RECENGINE_CHECK(weight || keep_mixed, op, ": nothing to compute without weight and without keep_mixed");
  RECENGINE_CHECK(!own_residual || (!residual && c.tokens == heads), op,
                  ": own_residual needs as many heads as tokens and no residual");
  check_grid(op, c.samples * heads);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor normed = weight ? torch::stable::new_empty(x, {c.samples, heads, c.width}) : torch::stable::new_empty(x, {0});
  Tensor mixed = keep_mixed ? torch::stable::new_empty(x, {c.samples, heads, c.width}) : torch::stable::new_empty(x, {0});
  Tensor rstd = weight ? torch::stable::new_empty(x, {c.samples, heads}, ScalarType::Float)
                       : torch::stable::new_empty(x, {0}, ScalarType::Float);
  c.x = view(x), c.residual = view(residual), c.own = own_residual, c.eps = static_cast<float>(eps);
  if (weight) c.normed = view(normed);
  if (keep_mixed) c.mixed = view(mixed);
  c.rstd = static_cast<float*>(rstd.mutable_data_ptr());
  if (c.samples * heads * c.width > 0) {
    forward_kernel<<<static_cast<unsigned>(c.samples * heads), THREADS, 0, stream_of(x)>>>(c);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  } else if (weight) {
    torch::stable::zero_(rstd);
  }
  return {normed, mixed, rstd};
}

std::tuple<Tensor, Tensor, Tensor> backward(Maybe grad_normed, Maybe grad_mixed, const Tensor& source, Maybe residual,
                                            Maybe weight, const Tensor& rstd, int64_t tokens, int64_t heads,
                                            bool source_is_mixed, bool own_residual, bool residual_grad) {
  const char* op = "token_mixing_backward";
  check_dim(op, "source", source, 3);
  check_floating(op, "source", source);
  RECENGINE_CHECK(tokens >= 0 && heads >= 1 && source.size(1) == (source_is_mixed ? heads : tokens), op,
                  ": source has ", source.size(1), " rows, expected ", source_is_mixed ? heads : tokens);
  Call c{};
  c.samples = source.size(0), c.tokens = tokens, c.heads = heads;
  c.part = source.size(2) / std::max<int64_t>(source_is_mixed ? tokens : heads, 1);
  c.width = tokens * c.part;
  RECENGINE_CHECK(source.size(2) == (source_is_mixed ? c.width : heads * c.part), op, ": source has ", source.size(2),
                  " features, which ", tokens, " tokens and ", heads, " heads do not divide");
  check_like(op, "grad_normed", grad_normed, source, heads, c.width);
  check_like(op, "grad_mixed", grad_mixed, source, heads, c.width);
  check_like(op, "residual", residual, source, heads, c.width);
  check_weight(op, weight, source, c.width, c);
  RECENGINE_CHECK(grad_normed || grad_mixed, op, ": needs grad_normed or grad_mixed");
  RECENGINE_CHECK(!grad_normed || (weight && rstd.numel() == c.samples * heads && rstd.is_contiguous()), op,
                  ": grad_normed needs weight and rstd");
  RECENGINE_CHECK(!own_residual || tokens == heads, op, ": own_residual needs as many heads as tokens");
  const torch::stable::accelerator::DeviceGuard guard(source.get_device_index());
  const int64_t samples = c.samples, width = c.width;
  Tensor dx = torch::stable::new_empty(source, {samples, tokens, heads * c.part});
  Tensor dr = residual_grad ? torch::stable::new_empty(source, {samples, heads, width}) : torch::stable::new_empty(source, {0});
  Tensor dw = torch::stable::new_zeros(source, {weight ? width : 0}, ScalarType::Float);
  if (samples * heads * width == 0) return {dx, dr, dw};
  check_grid(op, samples * std::max(heads, tokens));
  (source_is_mixed ? c.saved : c.x) = view(source);
  c.own = own_residual;
  c.residual = view(residual), c.grad_normed = view(grad_normed), c.grad_mixed = view(grad_mixed), c.dx = view(dx);
  if (residual_grad) c.dresidual = view(dr);
  c.rstd = const_cast<float*>(static_cast<const float*>(rstd.const_data_ptr()));
  const cudaStream_t stream = stream_of(source);
  Tensor ds = torch::stable::new_empty(source, {samples, heads, width}, ScalarType::Float);
  float* d = static_cast<float*>(ds.mutable_data_ptr());
  row_gradient_kernel<<<static_cast<unsigned>(samples * heads), THREADS, 0, stream>>>(c, d);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  input_gradient_kernel<<<static_cast<unsigned>(samples * tokens), THREADS, 0, stream>>>(c, d);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  if (weight && grad_normed) {
    const int64_t rows = samples * heads, run = std::max<int64_t>((rows + 255) / 256, 1), runs = (rows + run - 1) / run;
    Tensor parts = torch::stable::new_empty(source, {runs, width}, ScalarType::Float);
    float* p = static_cast<float*>(parts.mutable_data_ptr());
    weight_gradient_kernel<<<dim3(blocks(width), static_cast<unsigned>(runs)), THREADS, 0, stream>>>(c, run, p);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    add_parts_kernel<<<blocks(width), THREADS, 0, stream>>>(p, runs, width, static_cast<float*>(dw.mutable_data_ptr()));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {dx, dr, dw};
}

}  // namespace
}  // namespace recengine::cuda

STABLE_TORCH_LIBRARY_IMPL(recengine, CUDA, lib) {
  lib.impl("token_mixing", TORCH_BOX(&recengine::cuda::forward));
  lib.impl("token_mixing_backward", TORCH_BOX(&recengine::cuda::backward));
}
