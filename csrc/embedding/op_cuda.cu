// Embedding bags and row updates on a GPU. The gradient sorts the entries by table row (a stable radix sort)
// and sums every seen row by one warp, in order: no atomics. Values of indices are not read back; entries out
// of range are skipped. Not yet run on a GPU.
#include <torch/csrc/stable/library.h>

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_select.cuh>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

#include "common/element.cuh"

namespace recengine::cuda {
namespace {

using Maybe = std::optional<Tensor>;
constexpr int THREADS = 256;
constexpr int64_t WARPS = THREADS / 32;

struct View {
  void* data;
  int64_t row, col;
  Kind kind;
};
View view(const Tensor& t) { return {const_cast<void*>(t.const_data_ptr()), t.stride(0), t.stride(1), kind_of(t)}; }
__device__ float at(const View& v, int64_t r, int64_t c) { return get(v.data, r * v.row + c * v.col, v.kind); }
__device__ void set(const View& v, int64_t r, int64_t c, float x) { put(v.data, r * v.row + c * v.col, v.kind, x); }

__device__ int64_t warp_index() { return (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) / 32; }

struct Bags {
  const int64_t *indices, *offsets;
  const float* weights;
  int64_t entries, count, d, rows;
  // Offsets are not read before the launch: what lies outside of the entries is passed over.
  __device__ int64_t begin(int64_t b) const { return max(offsets[b], int64_t{0}); }
  __device__ int64_t end(int64_t b) const { return min(offsets[b + 1], entries); }
};

__global__ void __launch_bounds__(THREADS) sum_kernel(Bags g, View table, View out) {
  const int64_t b = warp_index();
  if (b >= g.count) return;
  const int64_t first = g.begin(b), last = g.end(b);
  for (int64_t j = threadIdx.x % 32; j < g.d; j += 32) {
    float sum = 0;
#pragma unroll 2
    for (int64_t i = first; i < last; ++i) {
      const int64_t row = g.indices[i];
      if (row >= 0 && row < g.rows) sum += (g.weights ? g.weights[i] : 1.f) * at(table, row, j);
    }
    set(out, b, j, sum);
  }
}

__global__ void __launch_bounds__(THREADS) number_kernel(int64_t n, int64_t* entries, int32_t* bag_of) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (i >= n) return;
  entries[i] = i;
  bag_of[i] = -1;  // of entries that the offsets leave out
}

__global__ void __launch_bounds__(THREADS) bags_kernel(Bags g, int32_t* bag_of) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (b >= g.count) return;
  for (int64_t i = g.begin(b); i < g.end(b); ++i) bag_of[i] = static_cast<int32_t>(b);
}

// heads[i]: whether sorted entry i is the first of its table row.
__global__ void __launch_bounds__(THREADS) heads_kernel(const int64_t* sorted, int64_t n, int64_t rows, uint8_t* heads) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (i < n) heads[i] = sorted[i] >= 0 && sorted[i] < rows && (i == 0 || sorted[i] != sorted[i - 1]);
}

// One warp a start: the sum of the run of equal rows that begins there, to out[row] or to out[k].
template <bool SPARSE>
__global__ void __launch_bounds__(THREADS)
    gradient_kernel(Bags g, View grad, const int64_t* sorted, const int64_t* entries, const int32_t* bag_of,
                    const uint8_t* heads, const int64_t* starts, int64_t n, View out, int64_t* ids) {
  const int64_t k = warp_index();
  if (k >= n || (!SPARSE && !heads[k])) return;
  const int64_t first = SPARSE ? starts[k] : k, row = sorted[first];
  int64_t last = first + 1;
#pragma unroll 1
  while (last < g.entries && sorted[last] == row) ++last;
#pragma unroll 1
  for (int64_t j = threadIdx.x % 32; j < g.d; j += 32) {
    float sum = 0;
#pragma unroll 1
    for (int64_t i = first; i < last; ++i) {
      const int32_t bag = bag_of[entries[i]];
      if (bag >= 0) sum += (g.weights ? g.weights[entries[i]] : 1.f) * at(grad, bag, j);
    }
    set(out, SPARSE ? k : row, j, sum);
  }
  if (SPARSE && threadIdx.x % 32 == 0) ids[k] = row;
}

__global__ void __launch_bounds__(THREADS) weights_kernel(Bags g, View grad, View table, float* out) {
  const int64_t b = warp_index();
  if (b >= g.count) return;
  const int64_t last = g.end(b);
#pragma unroll 1
  for (int64_t i = g.begin(b); i < last; ++i) {
    const int64_t row = g.indices[i];
    float sum = 0;
    if (row >= 0 && row < g.rows) {
#pragma unroll 1
      for (int64_t j = threadIdx.x % 32; j < g.d; j += 32) sum += at(grad, b, j) * at(table, row, j);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) out[i] = sum;
  }
}

__global__ void __launch_bounds__(THREADS)
    adagrad_kernel(View table, float* state, int64_t step, const int64_t* rows, int64_t n, int64_t V, int64_t d,
                   View grad, float lr, float eps) {
  const int64_t k = warp_index();
  if (k >= n || rows[k] < 0 || rows[k] >= V) return;
  float sum = 0;
  for (int64_t j = threadIdx.x % 32; j < d; j += 32) sum += at(grad, k, j) * at(grad, k, j);
  const float s = state[rows[k] * step] + warp_sum(sum) / static_cast<float>(d);
  __syncwarp();
  if (threadIdx.x % 32 == 0) state[rows[k] * step] = s;
  for (int64_t j = threadIdx.x % 32; j < d; j += 32)
    set(table, rows[k], j, at(table, rows[k], j) - lr / (sqrtf(s) + eps) * at(grad, k, j));
}

__global__ void __launch_bounds__(THREADS)
    adam_kernel(View table, View mean, View square, const int64_t* rows, int64_t n, int64_t V, int64_t d, View grad,
                float beta1, float beta2, float step_size, float scale2, float eps) {
  const int64_t k = warp_index();
  if (k >= n || rows[k] < 0 || rows[k] >= V) return;
  for (int64_t j = threadIdx.x % 32; j < d; j += 32) {
    const float g = at(grad, k, j);
    float m = at(mean, rows[k], j), v = at(square, rows[k], j);
    m += (g - m) * (1.f - beta1);
    v += (g * g - v) * (1.f - beta2);
    set(mean, rows[k], j, m);
    set(square, rows[k], j, v);
    set(table, rows[k], j, at(table, rows[k], j) - step_size * m / (sqrtf(v) * scale2 + eps));
  }
}

unsigned blocks(int64_t n) { return static_cast<unsigned>((n + THREADS - 1) / THREADS); }
unsigned warp_blocks(int64_t n) { return static_cast<unsigned>((n + WARPS - 1) / WARPS); }
const int64_t* longs(const Tensor& t) { return static_cast<const int64_t*>(t.const_data_ptr()); }

void check_longs(const char* op, const char* name, const Tensor& t, const Tensor& other) {
  check_dim(op, name, t, 1);
  check_dtype(op, name, t, ScalarType::Long, "int64");
  RECENGINE_CHECK(t.numel() <= 1 || t.stride(0) == 1, op, ": ", name, " must be contiguous");
  check_same_device(op, name, t, other);
}

Bags check_bags(const char* op, const Tensor& indices, const Tensor& offsets, const Maybe& weights, int64_t rows,
                const Tensor& other) {
  check_longs(op, "indices", indices, other);
  check_longs(op, "offsets", offsets, other);
  const int64_t count = offsets.numel() - 1, entries = indices.numel();
  RECENGINE_CHECK(count >= 0, op, ": offsets is empty, expected one more element than there are bags");
  RECENGINE_CHECK(count < (int64_t{1} << 31) && entries < (int64_t{1} << 31), op,
                  ": indices and offsets must have fewer than 2^31 elements");
  if (weights) {
    check_dim(op, "per_sample_weights", *weights, 1);
    check_size(op, "per_sample_weights", *weights, 0, entries);
    check_dtype(op, "per_sample_weights", *weights, ScalarType::Float, "float32");
    RECENGINE_CHECK(entries <= 1 || weights->stride(0) == 1, op, ": per_sample_weights must be contiguous");
    check_same_device(op, "per_sample_weights", *weights, other);
  }
  return {longs(indices), longs(offsets), weights ? static_cast<const float*>(weights->const_data_ptr()) : nullptr,
          entries, count, other.size(1), rows};
}

void check_table(const char* op, const char* name, const Tensor& t) {
  check_dim(op, name, t, 2);
  check_floating(op, name, t);
}

Tensor forward(const Tensor& weight, const Tensor& indices, const Tensor& offsets, Maybe weights, bool) {
  const char* op = "embedding_bag_sum";
  check_table(op, "weight", weight);
  const Bags g = check_bags(op, indices, offsets, weights, weight.size(0), weight);
  const torch::stable::accelerator::DeviceGuard guard(weight.get_device_index());
  Tensor out = torch::stable::new_empty(weight, {g.count, g.d});
  if (g.count * g.d == 0) return out;
  sum_kernel<<<warp_blocks(g.count), THREADS, 0, stream_of(weight)>>>(g, view(weight), view(out));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

// The entries sorted by table row, ties by position.
struct Sorted {
  Tensor rows, entries, bag_of, heads, positions;  // positions: 0, 1, 2, ...
};
Sorted sort_entries(const Bags& g, const Tensor& indices, cudaStream_t stream) {
  Tensor rows = torch::stable::new_empty(indices, {g.entries}), before = torch::stable::new_empty(indices, {g.entries});
  Tensor entries = torch::stable::new_empty(indices, {g.entries});
  Tensor bag_of = torch::stable::new_empty(indices, {g.entries}, ScalarType::Int);
  Tensor heads = torch::stable::new_empty(indices, {g.entries}, ScalarType::Byte);
  int64_t* order = static_cast<int64_t*>(before.mutable_data_ptr());
  int32_t* bags = static_cast<int32_t*>(bag_of.mutable_data_ptr());
  number_kernel<<<blocks(g.entries), THREADS, 0, stream>>>(g.entries, order, bags);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  if (g.count > 0) bags_kernel<<<blocks(g.count), THREADS, 0, stream>>>(g, bags);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  int64_t* keys = static_cast<int64_t*>(rows.mutable_data_ptr());
  int64_t* values = static_cast<int64_t*>(entries.mutable_data_ptr());
  size_t bytes = 0;
  const int n = static_cast<int>(g.entries);
  STD_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(nullptr, bytes, g.indices, keys, order, values, n, 0, 64, stream));
  Tensor space = torch::stable::new_empty(indices, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
  STD_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(space.mutable_data_ptr(), bytes, g.indices, keys, order, values, n, 0,
                                                 64, stream));
  heads_kernel<<<blocks(g.entries), THREADS, 0, stream>>>(keys, g.entries, g.rows,
                                                          static_cast<uint8_t*>(heads.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {rows, entries, bag_of, heads, before};
}

void launch_gradient(const Bags& g, const Tensor& grad, const Sorted& s, const Tensor* starts, int64_t n, Tensor& out,
                     Tensor* ids, cudaStream_t stream) {
  if (n == 0) return;
  const auto kernel = starts ? gradient_kernel<true> : gradient_kernel<false>;
  kernel<<<warp_blocks(n), THREADS, 0, stream>>>(
      g, view(grad), longs(s.rows), longs(s.entries), static_cast<const int32_t*>(s.bag_of.const_data_ptr()),
      starts ? nullptr : static_cast<const uint8_t*>(s.heads.const_data_ptr()), starts ? longs(*starts) : nullptr, n,
      view(out), ids ? static_cast<int64_t*>(ids->mutable_data_ptr()) : nullptr);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor backward(const Tensor& grad, const Tensor& indices, const Tensor& offsets, Maybe weights, int64_t rows) {
  const char* op = "embedding_bag_sum_backward";
  check_table(op, "grad", grad);
  const Bags g = check_bags(op, indices, offsets, weights, rows, grad);
  check_size(op, "grad", grad, 0, g.count);
  const torch::stable::accelerator::DeviceGuard guard(grad.get_device_index());
  Tensor out = torch::stable::new_zeros(grad, {rows, g.d});
  if (g.entries * g.d == 0) return out;
  const cudaStream_t stream = stream_of(grad);
  const Sorted s = sort_entries(g, indices, stream);
  launch_gradient(g, grad, s, nullptr, g.entries, out, nullptr, stream);
  return out;
}

// The number of seen rows is a size of the result, so it has to be read back: the one operator here that waits.
std::tuple<Tensor, Tensor> backward_rows(const Tensor& grad, const Tensor& indices, const Tensor& offsets,
                                         Maybe weights, int64_t rows) {
  const char* op = "embedding_bag_sum_rows";
  check_table(op, "grad", grad);
  const Bags g = check_bags(op, indices, offsets, weights, rows, grad);
  check_size(op, "grad", grad, 0, g.count);
  const torch::stable::accelerator::DeviceGuard guard(grad.get_device_index());
  if (g.entries == 0) return {torch::stable::new_empty(indices, {0}), torch::stable::new_empty(grad, {0, g.d})};
  const cudaStream_t stream = stream_of(grad);
  const Sorted s = sort_entries(g, indices, stream);
  Tensor starts = torch::stable::new_empty(indices, {g.entries});
  Tensor count = torch::stable::new_empty(indices, {1});
  int64_t* to = static_cast<int64_t*>(starts.mutable_data_ptr());
  int64_t* number = static_cast<int64_t*>(count.mutable_data_ptr());
  const uint8_t* heads = static_cast<const uint8_t*>(s.heads.const_data_ptr());
  const int64_t* all = longs(s.positions);
  size_t bytes = 0;
  const int n = static_cast<int>(g.entries);
  STD_CUDA_CHECK(cub::DeviceSelect::Flagged(nullptr, bytes, all, heads, to, number, n, stream));
  Tensor space = torch::stable::new_empty(indices, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
  STD_CUDA_CHECK(cub::DeviceSelect::Flagged(space.mutable_data_ptr(), bytes, all, heads, to, number, n, stream));
  int64_t seen = 0;
  STD_CUDA_CHECK(cudaMemcpyAsync(&seen, number, sizeof(seen), cudaMemcpyDeviceToHost, stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));
  Tensor ids = torch::stable::new_empty(indices, {seen}), values = torch::stable::new_empty(grad, {seen, g.d});
  launch_gradient(g, grad, s, &starts, seen, values, &ids, stream);
  return {ids, values};
}

Tensor backward_weights(const Tensor& grad, const Tensor& weight, const Tensor& indices, const Tensor& offsets) {
  const char* op = "embedding_bag_sum_weights";
  check_table(op, "grad", grad);
  check_table(op, "weight", weight);
  check_same_device(op, "weight", weight, grad);
  check_size(op, "grad", grad, 1, weight.size(1));
  const Bags g = check_bags(op, indices, offsets, std::nullopt, weight.size(0), grad);
  check_size(op, "grad", grad, 0, g.count);
  const torch::stable::accelerator::DeviceGuard guard(grad.get_device_index());
  Tensor out = torch::stable::new_empty(grad, {g.entries}, ScalarType::Float);
  if (g.entries == 0) return out;
  weights_kernel<<<warp_blocks(g.count), THREADS, 0, stream_of(grad)>>>(g, view(grad), view(weight),
                                                                        static_cast<float*>(out.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

void check_update(const char* op, const Tensor& weight, const Tensor& rows, const Tensor& values) {
  check_table(op, "weight", weight);
  check_longs(op, "rows", rows, weight);
  check_table(op, "values", values);
  check_same_device(op, "values", values, weight);
  check_size(op, "values", values, 0, rows.numel());
  check_size(op, "values", values, 1, weight.size(1));
}
void check_state(const char* op, const char* name, const Tensor& state, const Tensor& weight, bool by_row) {
  check_dim(op, name, state, by_row ? 1 : 2);
  check_dtype(op, name, state, ScalarType::Float, "float32");
  check_size(op, name, state, 0, weight.size(0));
  if (!by_row) check_size(op, name, state, 1, weight.size(1));
  check_same_device(op, name, state, weight);
}

void rowwise_adagrad(Tensor weight, Tensor state, const Tensor& rows, const Tensor& values, double lr, double eps) {
  const char* op = "rowwise_adagrad_";
  check_update(op, weight, rows, values);
  check_state(op, "state", state, weight, true);
  if (rows.numel() * weight.size(1) == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(weight.get_device_index());
  adagrad_kernel<<<warp_blocks(rows.numel()), THREADS, 0, stream_of(weight)>>>(
      view(weight), static_cast<float*>(state.mutable_data_ptr()), state.stride(0), longs(rows), rows.numel(),
      weight.size(0), weight.size(1), view(values), static_cast<float>(lr), static_cast<float>(eps));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

void sparse_adam(Tensor weight, Tensor mean, Tensor square, const Tensor& rows, const Tensor& values, int64_t step,
                 double lr, double beta1, double beta2, double eps) {
  const char* op = "sparse_adam_";
  check_update(op, weight, rows, values);
  check_state(op, "exp_avg", mean, weight, false);
  check_state(op, "exp_avg_sq", square, weight, false);
  RECENGINE_CHECK(step >= 1, op, ": step is ", step, ", expected 1 for the first update");
  RECENGINE_CHECK(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, op, ": beta1 and beta2 are ", beta1, " and ",
                  beta2, ", expected values in [0, 1)");
  if (rows.numel() * weight.size(1) == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(weight.get_device_index());
  adam_kernel<<<warp_blocks(rows.numel()), THREADS, 0, stream_of(weight)>>>(
      view(weight), view(mean), view(square), longs(rows), rows.numel(), weight.size(0), weight.size(1), view(values),
      static_cast<float>(beta1), static_cast<float>(beta2),
      static_cast<float>(lr / (1.0 - std::pow(beta1, static_cast<double>(step)))),
      static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta2, static_cast<double>(step)))), static_cast<float>(eps));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace
}  // namespace recengine::cuda

STABLE_TORCH_LIBRARY_IMPL(recengine, CUDA, lib) {
  lib.impl("embedding_bag_sum", TORCH_BOX(&recengine::cuda::forward));
  lib.impl("embedding_bag_sum_backward", TORCH_BOX(&recengine::cuda::backward));
  lib.impl("embedding_bag_sum_rows", TORCH_BOX(&recengine::cuda::backward_rows));
  lib.impl("embedding_bag_sum_weights", TORCH_BOX(&recengine::cuda::backward_weights));
  lib.impl("rowwise_adagrad_", TORCH_BOX(&recengine::cuda::rowwise_adagrad));
  lib.impl("sparse_adam_", TORCH_BOX(&recengine::cuda::sparse_adam));
}
