// The softmax losses on CUDA. Not yet run on a GPU: designs are chosen to be plainly right. Nothing waits
// for the device; a target or id that is out of range stops the kernel (trap), because reading it here would
// wait. Every sum has a fixed order, or is made of integers, so the bits are the same from run to run.
#include <algorithm>
#include <optional>
#include <tuple>

#include "common/launch.cuh"

namespace recengine::cuda {
namespace {

using torch::stable::new_empty;
using torch::stable::new_zeros;

template <class T>
struct Table {  // any strides
  const T* at;
  int64_t row, col;
  __device__ T operator()(int64_t r, int64_t c) const { return at[r * row + c * col]; }
};
template <class T>
Table<T> table(const Tensor& t) {
  return {data<T>(t), t.stride(0), t.stride(1)};
}

struct Ids {
  const int64_t* at;  // or null
  int64_t step;
  __device__ int64_t operator()(int64_t i) const { return at[i * step]; }
};
Ids ids(const std::optional<Tensor>& t) { return t ? Ids{data<int64_t>(*t), t->stride(0)} : Ids{nullptr, 0}; }

struct Floats {
  const float* at;
  int64_t step;
  __device__ float operator()(int64_t i) const { return at ? at[i * step] : 0.f; }
};
Floats floats(const std::optional<Tensor>& t) { return t ? Floats{data<float>(*t), t->stride(0)} : Floats{nullptr, 0}; }

__device__ float warp_sum(float x) {
  for (int h = 16; h > 0; h /= 2) x += __shfl_xor_sync(0xffffffffu, x, h);
  return x;
}

// --- linear cross-entropy

template <class T>
struct Catalogue {
  Table<T> hidden, weight;
  Ids target, row_key, item_key;
  Floats bias;
  float scale;
  int64_t rows, items, width, ignore_index;

  __device__ bool counts(int64_t r) const { return !target.at || target(r) != ignore_index; }
  // A logit from its inner product; minus infinity for what a key leaves out.
  __device__ float logit(int64_t r, int64_t v, float product) const {
    if (row_key.at && row_key(r) == item_key(v) && !(target.at && target(r) == v)) return -INFINITY;
    return scale * product + bias(v);
  }
};

template <class T>
__device__ void logits(const Catalogue<T>& p, int64_t row, int64_t item, TileMemory<T>& m) {
  tile_product<Fast::step, Fast::step>(
      p.width, [&](int i, int64_t k) { return row + i < p.rows ? p.hidden(row + i, k) : from_float<T>(0.f); },
      [&](int64_t k, int j) { return item + j < p.items ? p.weight(item + j, k) : from_float<T>(0.f); }, m);
}

// Block (x, y): 64 rows against the y-th part of the catalogue. Four threads a row.
template <class T>
__global__ void __launch_bounds__(THREADS, 1) forward_part(Catalogue<T> p, float* largest, float* sum) {
  __shared__ TileMemory<T> m;
  const int64_t row = int64_t{blockIdx.x} * TILE, tiles = (p.items + TILE - 1) / TILE;
  const int64_t first = tiles * blockIdx.y / gridDim.y, last = tiles * (blockIdx.y + 1) / gridDim.y;
  const int own = static_cast<int>(threadIdx.x) / 4, lane = static_cast<int>(threadIdx.x) % 4;
  float top = -INFINITY, total = 0.f;
  for (int64_t tile = first; tile < last; ++tile) {
    const int64_t item = tile * TILE;
    logits(p, row, item, m);
    float found = top;
    float* const line = m.out[own];
    for (int j = lane; j < TILE; j += 4) {
      const int64_t v = item + j;
      line[j] = row + own < p.rows && v < p.items ? p.logit(row + own, v, line[j]) : -INFINITY;
      found = fmaxf(found, line[j]);
    }
    found = fmaxf(found, __shfl_xor_sync(0xffffffffu, found, 1));
    found = fmaxf(found, __shfl_xor_sync(0xffffffffu, found, 2));
    if (found > -INFINITY) {
      total *= expf(top - found);
      for (int j = lane; j < TILE; j += 4) total += expf(line[j] - found);
      top = found;
    } else {
      for (int j = lane; j < TILE; j += 4)
        if (line[j] != -INFINITY) total += line[j];  // NaN: nothing else can be there
    }
    __syncthreads();  // the tile is about to be written again
  }
  total += __shfl_xor_sync(0xffffffffu, total, 1);
  total += __shfl_xor_sync(0xffffffffu, total, 2);
  if (lane == 0 && row + own < p.rows) {
    largest[blockIdx.y * p.rows + row + own] = top;
    sum[blockIdx.y * p.rows + row + own] = total;
  }
}

// A warp a row: the parts in order, and the target's own logit.
template <class T>
__global__ void __launch_bounds__(THREADS, 1)
    forward_finish(Catalogue<T> p, const float* largest, const float* sum, int64_t parts, float* loss, float* lse) {
  const int64_t r = (int64_t{blockIdx.x} * THREADS + threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (r >= p.rows) return;
  if (!p.counts(r)) {
    if (lane == 0) loss[r] = lse[r] = 0.f;
    return;
  }
  float top = -INFINITY, total = 0.f;
  for (int64_t s = 0; s < parts; ++s) top = fmaxf(top, largest[s * p.rows + r]);
  for (int64_t s = 0; s < parts; ++s)
    if (sum[s * p.rows + r] != 0.f) total += sum[s * p.rows + r] * expf(largest[s * p.rows + r] - top);
  // a NaN is passed over where the largest is looked for, and stands in the sum
  const float whole = top == -INFINITY && total == total ? -INFINITY : top + logf(total);
  float chosen = whole;
  if (p.target.at) {
    const int64_t v = p.target(r);
    if (v < 0 || v >= p.items) __trap();
    float product = 0.f;
    for (int64_t k = lane; k < p.width; k += 32) product += to_float(p.hidden(r, k)) * to_float(p.weight(v, k));
    chosen = p.scale * warp_sum(product) + p.bias(v);
  }
  if (lane == 0) {
    lse[r] = whole;
    loss[r] = p.target.at ? whole - chosen : 0.f;
  }
}

// What the probabilities are multiplied as: half has no range for them (1e-8 of a mean over a batch).
template <class T>
struct Product {
  using type = T;
};
template <>
struct Product<__half> {
  using type = __nv_bfloat16;
};

struct Upstream {
  Floats loss, lse_grad, lse;
};

// The gradient of the logits of items [start, start + count), as [rows][count].
template <class T, class P>
__global__ void __launch_bounds__(THREADS, 1) logit_gradient(Catalogue<T> p, Upstream up, int64_t start, int64_t count, P* out) {
  __shared__ TileMemory<T> m;
  const int64_t row = int64_t{blockIdx.x} * TILE, item = start + int64_t{blockIdx.y} * TILE;
  logits(p, row, item, m);
  tile_each([&](int i, int j) {
    const int64_t r = row + i, v = item + j;
    if (r >= p.rows || v >= start + count) return;
    float change = 0.f;
    if (p.counts(r) && up.lse(r) > -INFINITY) {
      const float hit = up.loss(r), z = p.logit(r, v, m.out[i][j]);
      change = (hit + up.lse_grad(r)) * expf(z - up.lse(r)) - (p.target.at && p.target(r) == v ? hit : 0.f);
    }
    out[r * count + v - start] = from_float<P>(change);
  });
}

template <class T, class P>
__global__ void __launch_bounds__(THREADS, 1)
    hidden_gradient(Catalogue<T> p, const P* change, int64_t start, int64_t count, float* sum) {
  __shared__ TileMemory<P> m;
  const int64_t row = int64_t{blockIdx.x} * TILE, col = int64_t{blockIdx.y} * TILE;
  tile_product<Fast::step, Fast::other>(
      count, [&](int i, int64_t v) { return row + i < p.rows ? change[(row + i) * count + v] : from_float<P>(0.f); },
      [&](int64_t v, int j) {
        return col + j < p.width ? from_float<P>(to_float(p.weight(start + v, col + j))) : from_float<P>(0.f);
      },
      m);
  tile_each([&](int i, int j) {
    if (row + i < p.rows && col + j < p.width) sum[(row + i) * p.width + col + j] += p.scale * m.out[i][j];
  });
}

template <class T, class P>
__global__ void __launch_bounds__(THREADS, 1)
    weight_gradient(Catalogue<T> p, const P* change, int64_t start, int64_t count, T* out, float* bias) {
  __shared__ TileMemory<P> m;
  const int64_t item = int64_t{blockIdx.x} * TILE, col = int64_t{blockIdx.y} * TILE;
  tile_product<Fast::other, Fast::other>(
      p.rows, [&](int i, int64_t r) { return item + i < count ? change[r * count + item + i] : from_float<P>(0.f); },
      [&](int64_t r, int j) {
        return col + j < p.width ? from_float<P>(to_float(p.hidden(r, col + j))) : from_float<P>(0.f);
      },
      m);
  tile_each([&](int i, int j) {
    if (item + i < count && col + j < p.width)
      out[(start + item + i) * p.width + col + j] = from_float<T>(p.scale * m.out[i][j]);
  });
  const int64_t own = item + threadIdx.x;
  if (bias && blockIdx.y == 0 && threadIdx.x < TILE && own < count) {
    float total = 0.f;
    for (int64_t r = 0; r < p.rows; ++r) total += to_float(change[r * count + own]);
    bias[start + own] = total;
  }
}

void check_ids(const char* op, const char* name, const std::optional<Tensor>& t, int64_t size, const Tensor& like) {
  if (!t) return;
  check_dim(op, name, *t, 1);
  check_size(op, name, *t, 0, size);
  check_dtype(op, name, *t, ScalarType::Long, "int64");
  check_device(op, name, *t, like);
}

void check_floats(const char* op, const char* name, const std::optional<Tensor>& t, int64_t size, const Tensor& like) {
  if (!t) return;
  check_dim(op, name, *t, 1);
  check_size(op, name, *t, 0, size);
  check_dtype(op, name, *t, ScalarType::Float, "float32");
  check_device(op, name, *t, like);
}

void check_catalogue(const char* op, const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& target,
                     const std::optional<Tensor>& bias, const std::optional<Tensor>& row_key,
                     const std::optional<Tensor>& item_key) {
  check_dim(op, "hidden", hidden, 2);
  check_dim(op, "weight", weight, 2);
  check_size(op, "weight", weight, 1, hidden.size(1));
  RECENGINE_CHECK(weight.scalar_type() == hidden.scalar_type(), op, ": weight and hidden must have the same dtype, found ",
                  dtype_name(weight), " and ", dtype_name(hidden));
  check_device(op, "weight", weight, hidden);
  RECENGINE_CHECK(weight.size(0) > 0, op, ": weight has no rows, expected at least one item");
  RECENGINE_CHECK(row_key.has_value() == item_key.has_value(), op, ": row_key and item_key come together or not at all");
  check_ids(op, "target", target, hidden.size(0), hidden);
  check_ids(op, "row_key", row_key, hidden.size(0), hidden);
  check_ids(op, "item_key", item_key, weight.size(0), hidden);
  check_floats(op, "bias", bias, weight.size(0), hidden);
}

template <class T>
Catalogue<T> catalogue(const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& target,
                       const std::optional<Tensor>& bias, const std::optional<Tensor>& row_key,
                       const std::optional<Tensor>& item_key, int64_t ignore_index, double scale) {
  return {table<T>(hidden), table<T>(weight), ids(target), ids(row_key), ids(item_key), floats(bias),
          static_cast<float>(scale), hidden.size(0), weight.size(0), hidden.size(1), ignore_index};
}

std::tuple<Tensor, Tensor> linear_cross_entropy(const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& target,
                                                const std::optional<Tensor>& bias, const std::optional<Tensor>& row_key,
                                                const std::optional<Tensor>& item_key, int64_t ignore_index, double scale) {
  const char* op = "linear_cross_entropy";
  check_catalogue(op, hidden, weight, target, bias, row_key, item_key);
  const torch::stable::accelerator::DeviceGuard guard(hidden.get_device_index());
  const int64_t rows = hidden.size(0);
  Tensor loss = new_empty(hidden, {rows}, ScalarType::Float), lse = new_empty(hidden, {rows}, ScalarType::Float);
  if (rows == 0) return {loss, lse};
  const int64_t tiles = (weight.size(0) + TILE - 1) / TILE;
  const int64_t parts = std::clamp<int64_t>(512 * TILE / rows, 1, std::min<int64_t>(tiles, 128));
  Tensor largest = new_empty(hidden, {parts, rows}, ScalarType::Float);
  Tensor sum = new_empty(hidden, {parts, rows}, ScalarType::Float);
  const cudaStream_t stream = current_stream(hidden);
  by_dtype(op, "hidden", hidden, [&]<class T>(T) {
    const auto p = catalogue<T>(hidden, weight, target, bias, row_key, item_key, ignore_index, scale);
    const dim3 grid(blocks(rows, TILE), static_cast<unsigned>(parts));
    forward_part<T><<<grid, THREADS, 0, stream>>>(p, mutable_data<float>(largest), mutable_data<float>(sum));
    forward_finish<T><<<blocks(rows * 32, THREADS), THREADS, 0, stream>>>(
        p, data<float>(largest), data<float>(sum), parts, mutable_data<float>(loss), mutable_data<float>(lse));
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {loss, lse};
}

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_backward(
    const std::optional<Tensor>& loss_grad, const std::optional<Tensor>& lse_grad, const Tensor& hidden, const Tensor& weight,
    const std::optional<Tensor>& target, const std::optional<Tensor>& bias, const std::optional<Tensor>& row_key,
    const std::optional<Tensor>& item_key, const Tensor& lse, int64_t ignore_index, double scale, bool bias_grad) {
  const char* op = "linear_cross_entropy_backward";
  check_catalogue(op, hidden, weight, target, bias, row_key, item_key);
  const int64_t rows = hidden.size(0), items = weight.size(0), width = hidden.size(1);
  check_floats(op, "loss_grad", loss_grad, rows, hidden);
  check_floats(op, "lse_grad", lse_grad, rows, hidden);
  check_floats(op, "lse", lse, rows, hidden);
  const torch::stable::accelerator::DeviceGuard guard(hidden.get_device_index());
  Tensor sum = new_zeros(hidden, {rows, width}, ScalarType::Float);
  Tensor of_weight = new_zeros(weight, {items, width});
  Tensor of_bias = new_zeros(hidden, {bias_grad ? items : 0}, ScalarType::Float);
  if (rows > 0) {
    const cudaStream_t stream = current_stream(hidden);
    // A chunk of the catalogue at a time: 32 MB of logit gradients, whatever the sizes.
    const int64_t room = (int64_t{8} << 20) / std::max<int64_t>(rows, 1) / TILE * TILE;
    const int64_t most = std::min<int64_t>((items + TILE - 1) / TILE, 65535) * TILE;  // of a grid's second axis
    const int64_t chunk = std::clamp<int64_t>(room, TILE, most);
    by_dtype(op, "hidden", hidden, [&]<class T>(T) {
      using P = typename Product<T>::type;
      const auto p = catalogue<T>(hidden, weight, target, bias, row_key, item_key, ignore_index, scale);
      const Upstream up{floats(loss_grad), floats(lse_grad), floats(lse)};
      Tensor change = new_empty(hidden, {rows * chunk * static_cast<int64_t>(sizeof(P))}, ScalarType::Byte);
      P* const to = mutable_data<P>(change);
      float* const bias_to = bias_grad ? mutable_data<float>(of_bias) : nullptr;
      for (int64_t start = 0; start < items; start += chunk) {
        const int64_t count = std::min(chunk, items - start);
        logit_gradient<T, P><<<dim3(blocks(rows, TILE), blocks(count, TILE)), THREADS, 0, stream>>>(p, up, start, count, to);
        hidden_gradient<T, P><<<dim3(blocks(rows, TILE), blocks(width, TILE)), THREADS, 0, stream>>>(
            p, to, start, count, mutable_data<float>(sum));
        weight_gradient<T, P><<<dim3(blocks(count, TILE), blocks(width, TILE)), THREADS, 0, stream>>>(
            p, to, start, count, mutable_data<T>(of_weight), bias_to);
      }
    });
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {torch::stable::to(sum, hidden.scalar_type()), of_weight, of_bias};
}

// --- sampled log-sum-exp

template <class T>
struct Sampled {
  Table<T> anchors, items;
  const int64_t* negatives;
  int64_t negatives_row, negatives_col;
  Ids positives, exclude;
  const float* log_weight;
  int64_t weight_row, weight_col;
  Floats temperature;
  float scale;
  int64_t rows, count, width, table_rows;

  __device__ int64_t entries() const { return count + (positives.at ? 1 : 0); }
  __device__ int64_t id(int64_t b, int64_t j) const {
    const int64_t n = j < count ? negatives[b * negatives_row + j * negatives_col] : positives(b);
    if (n < -1 || n >= table_rows) __trap();
    return j < count && exclude.at && n == exclude(b) ? -1 : n;
  }
  __device__ float inverse(int64_t b) const { return temperature.at ? scale / temperature(b) : scale; }
  __device__ float weight(int64_t b, int64_t j) const {
    return log_weight && j < count ? log_weight[b * weight_row + j * weight_col] : 0.f;
  }
};

// The inner product of an anchor with one item, by a warp.
template <class T>
__device__ float inner_product(const Sampled<T>& p, int64_t b, int64_t n) {
  float product = 0.f;
  for (int64_t k = threadIdx.x % 32; k < p.width; k += 32)
    product += to_float(p.anchors(b, k)) * to_float(p.items(n, k));
  return warp_sum(product);
}

// The result of a reduction over the block, known to every thread; a fixed tree.
template <class F>
__device__ float block_reduce(float x, float* shared, F&& f) {
  shared[threadIdx.x] = x;
  __syncthreads();
  for (unsigned h = THREADS / 2; h > 0; h /= 2) {
    if (threadIdx.x < h) shared[threadIdx.x] = f(shared[threadIdx.x], shared[threadIdx.x + h]);
    __syncthreads();
  }
  const float result = shared[0];
  __syncthreads();
  return result;
}

// A block a row, a warp an entry. products, where asked for, keeps the inner products over the temperature.
template <class T>
__global__ void __launch_bounds__(THREADS, 1) sampled_products(Sampled<T> p, float* products) {
  const int64_t b = blockIdx.x, entries = p.entries();
  for (int64_t j = threadIdx.x / 32; j < entries; j += THREADS / 32) {
    const int64_t n = p.id(b, j);
    const float product = n < 0 ? 0.f : p.inverse(b) * inner_product(p, b, n);
    if (threadIdx.x % 32 == 0) products[b * entries + j] = product;
  }
}

template <class T>
__global__ void __launch_bounds__(THREADS, 1) sampled_reduce(Sampled<T> p, const float* products, float* lse) {
  __shared__ float shared[THREADS];
  const int64_t b = blockIdx.x, entries = p.entries();
  const auto logit = [&](int64_t j) { return p.id(b, j) < 0 ? -INFINITY : products[b * entries + j] + p.weight(b, j); };
  float top = -INFINITY;
#pragma unroll 1
  for (int64_t j = threadIdx.x; j < entries; j += THREADS) top = fmaxf(top, logit(j));
  top = block_reduce(top, shared, [](float x, float y) { return fmaxf(x, y); });
  float total = 0.f;  // where nothing counts, of NaN alone: fmaxf passes it over
#pragma unroll 1
  for (int64_t j = threadIdx.x; j < entries; j += THREADS) {
    const float x = logit(j);
    if (x != -INFINITY) total += expf(x - top);
  }
  total = block_reduce(total, shared, [](float x, float y) { return x + y; });
  if (threadIdx.x == 0) lse[b] = total == 0.f ? -INFINITY : top + logf(total);
}

// Turns the products of a row into shares (in place) and sums up what follows from them: the anchor's gradient and
// the temperature's.
template <class T>
__global__ void __launch_bounds__(THREADS, 1)
    sampled_shares(Sampled<T> p, Floats grad, Floats lse, float* share, T* anchors, float* temperature) {
  __shared__ float shared[THREADS];
  __shared__ float parts[THREADS / 32][32];
  const int64_t b = blockIdx.x, entries = p.entries();
  const float whole = lse(b), upstream = grad(b), inverse = p.inverse(b);
  float slope = 0.f;
  for (int64_t j = threadIdx.x; j < entries; j += THREADS) {
    float* const own = share + b * entries + j;
    const bool live = whole > -INFINITY && p.id(b, j) >= 0;
    const float product = *own;
    *own = live ? upstream * expf(product + p.weight(b, j) - whole) : 0.f;
    slope += *own * product;
  }
  slope = block_reduce(slope, shared, [](float x, float y) { return x + y; });
  // products carry one over the temperature already: d(product)/d(temperature) = -product / temperature
  if (threadIdx.x == 0 && temperature) temperature[b] = -slope / p.temperature(b);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  for (int64_t k0 = 0; k0 < p.width; k0 += 32) {
    float total = 0.f;
    for (int64_t j = warp; j < entries; j += THREADS / 32) {
      const int64_t n = p.id(b, j);
      if (n >= 0 && k0 + lane < p.width) total += share[b * entries + j] * to_float(p.items(n, k0 + lane));
    }
    parts[warp][lane] = total;
    __syncthreads();
    if (warp == 0 && k0 + lane < p.width) {
      for (int w = 1; w < THREADS / 32; ++w) total += parts[w][lane];
      anchors[b * p.width + k0 + lane] = from_float<T>(inverse * total);
    }
    __syncthreads();
  }
}

// The gradient of the table is summed in whole numbers, which do not mind the order: units of 2^-exponent, chosen
// so that the largest possible sum (every row's shares add up to its gradient) fits 62 bits. [0]: exponent, [1]: 1
// where something is not finite (a share of it is seen where it is used).
template <class T>
__global__ void __launch_bounds__(THREADS, 1) choose_units(Sampled<T> p, Floats grad, int* units) {
  __shared__ float shared[THREADS];
  float most = 0.f, wrong = 0.f;
  for (int64_t e = threadIdx.x; e < p.rows * p.width; e += THREADS) {
    const int64_t b = e / p.width;
    const float x = fabsf(grad(b) * p.inverse(b) * to_float(p.anchors(b, e % p.width)));
    if (!(x <= 3e38f)) wrong = 1.f;
    most = fmaxf(most, x);
  }
  most = block_reduce(most, shared, [](float x, float y) { return fmaxf(x, y); });
  wrong = block_reduce(wrong, shared, [](float x, float y) { return fmaxf(x, y); });
  if (threadIdx.x != 0) return;
  int exponent = 0;
  frexpf(most, &exponent);
  units[0] = 61 - exponent - (64 - __clzll(static_cast<long long>(p.rows)));
  units[1] = wrong > 0.f;
}

template <class T>
__global__ void __launch_bounds__(THREADS, 1)
    sampled_table(Sampled<T> p, const float* share, int* units, unsigned long long* sum) {
  const int64_t b = blockIdx.x, entries = p.entries();
  const double unit = ldexp(1.0, units[0]);
  for (int64_t j = threadIdx.x / 32; j < entries; j += THREADS / 32) {
    const int64_t n = p.id(b, j);
    const float coefficient = share[b * entries + j] * p.inverse(b);
    if (n < 0 || coefficient == 0.f) continue;
    if (!(fabsf(coefficient) <= 3e38f)) {
      units[1] = 1;
      continue;
    }
    for (int64_t k = threadIdx.x % 32; k < p.width; k += 32) {
      const double value = static_cast<double>(coefficient) * static_cast<double>(to_float(p.anchors(b, k)));
      const long long whole = __double2ll_rn(value * unit);
      atomicAdd(sum + n * p.width + k, static_cast<unsigned long long>(whole));
    }
  }
}

template <class T>
__global__ void __launch_bounds__(THREADS, 1) from_units(const unsigned long long* sum, const int* units, int64_t count, T* out) {
  const int64_t i = int64_t{blockIdx.x} * THREADS + threadIdx.x;
  if (i >= count) return;
  const double value = ldexp(static_cast<double>(static_cast<long long>(sum[i])), -units[0]);
  out[i] = from_float<T>(units[1] ? NAN : static_cast<float>(value));
}

template <class T>
Sampled<T> sampled(const Tensor& anchors, const Tensor& items, const Tensor& negatives, const std::optional<Tensor>& log_weight,
                   const std::optional<Tensor>& temperature, const std::optional<Tensor>& positives,
                   const std::optional<Tensor>& exclude, double scale) {
  return {table<T>(anchors), table<T>(items), data<int64_t>(negatives), negatives.stride(0), negatives.stride(1),
          ids(positives), ids(exclude), log_weight ? data<float>(*log_weight) : nullptr,
          log_weight ? log_weight->stride(0) : 0, log_weight ? log_weight->stride(1) : 0, floats(temperature),
          static_cast<float>(scale), anchors.size(0), negatives.size(1), anchors.size(1), items.size(0)};
}

void check_sampled(const char* op, const Tensor& anchors, const Tensor& items, const Tensor& negatives,
                   const std::optional<Tensor>& log_weight, const std::optional<Tensor>& temperature,
                   const std::optional<Tensor>& positives, const std::optional<Tensor>& exclude) {
  check_dim(op, "anchors", anchors, 2);
  check_dim(op, "table", items, 2);
  check_dim(op, "negatives", negatives, 2);
  check_size(op, "table", items, 1, anchors.size(1));
  check_size(op, "negatives", negatives, 0, anchors.size(0));
  RECENGINE_CHECK(items.scalar_type() == anchors.scalar_type(), op, ": table and anchors must have the same dtype, found ",
                  dtype_name(items), " and ", dtype_name(anchors));
  check_dtype(op, "negatives", negatives, ScalarType::Long, "int64");
  check_device(op, "table", items, anchors);
  check_device(op, "negatives", negatives, anchors);
  if (log_weight) {
    check_dim(op, "log_weight", *log_weight, 2);
    for (int64_t axis : {0, 1}) check_size(op, "log_weight", *log_weight, axis, negatives.size(axis));
    check_dtype(op, "log_weight", *log_weight, ScalarType::Float, "float32");
    check_device(op, "log_weight", *log_weight, anchors);
  }
  check_floats(op, "temperature", temperature, anchors.size(0), anchors);
  check_ids(op, "positives", positives, anchors.size(0), anchors);
  check_ids(op, "exclude", exclude, anchors.size(0), anchors);
  RECENGINE_CHECK(items.size(0) > 0 || negatives.numel() == 0, op, ": table has no rows, expected at least one item");
}

Tensor sampled_logsumexp(const Tensor& anchors, const Tensor& items, const Tensor& negatives,
                         const std::optional<Tensor>& log_weight, const std::optional<Tensor>& temperature,
                         const std::optional<Tensor>& positives, const std::optional<Tensor>& exclude, double scale) {
  const char* op = "sampled_logsumexp";
  check_sampled(op, anchors, items, negatives, log_weight, temperature, positives, exclude);
  const torch::stable::accelerator::DeviceGuard guard(anchors.get_device_index());
  const int64_t rows = anchors.size(0), entries = negatives.size(1) + (positives ? 1 : 0);
  Tensor lse = new_empty(anchors, {rows}, ScalarType::Float);
  if (rows == 0) return lse;
  Tensor products = new_empty(anchors, {rows, entries}, ScalarType::Float);
  const cudaStream_t stream = current_stream(anchors);
  by_dtype(op, "anchors", anchors, [&]<class T>(T) {
    const auto p = sampled<T>(anchors, items, negatives, log_weight, temperature, positives, exclude, scale);
    sampled_products<T><<<static_cast<unsigned>(rows), THREADS, 0, stream>>>(p, mutable_data<float>(products));
    sampled_reduce<T><<<static_cast<unsigned>(rows), THREADS, 0, stream>>>(p, data<float>(products), mutable_data<float>(lse));
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return lse;
}

Tensor sampled_scores(const Tensor& anchors, const Tensor& items, const Tensor& negatives, double scale) {
  const char* op = "sampled_scores";
  const std::optional<Tensor> none;
  check_sampled(op, anchors, items, negatives, none, none, none, none);
  const torch::stable::accelerator::DeviceGuard guard(anchors.get_device_index());
  Tensor scores = new_empty(anchors, {negatives.size(0), negatives.size(1)}, ScalarType::Float);
  if (anchors.size(0) == 0) return scores;
  const cudaStream_t stream = current_stream(anchors);
  by_dtype(op, "anchors", anchors, [&]<class T>(T) {
    const auto p = sampled<T>(anchors, items, negatives, none, none, none, none, scale);
    sampled_products<T><<<static_cast<unsigned>(anchors.size(0)), THREADS, 0, stream>>>(p, mutable_data<float>(scores));
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return scores;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sampled_logsumexp_backward(
    const Tensor& grad, const Tensor& anchors, const Tensor& items, const Tensor& negatives,
    const std::optional<Tensor>& log_weight, const std::optional<Tensor>& temperature, const std::optional<Tensor>& positives,
    const std::optional<Tensor>& exclude, const Tensor& lse, double scale) {
  const char* op = "sampled_logsumexp_backward";
  check_sampled(op, anchors, items, negatives, log_weight, temperature, positives, exclude);
  check_floats(op, "grad", grad, anchors.size(0), anchors);
  check_floats(op, "lse", lse, anchors.size(0), anchors);
  const torch::stable::accelerator::DeviceGuard guard(anchors.get_device_index());
  const int64_t rows = anchors.size(0), width = anchors.size(1), entries = negatives.size(1) + (positives ? 1 : 0);
  Tensor of_anchors = new_empty(anchors, {rows, width}), of_table = new_zeros(items, {items.size(0), width});
  Tensor share = new_empty(anchors, {rows, entries}, ScalarType::Float);
  Tensor of_temperature = new_empty(anchors, {temperature ? rows : 0}, ScalarType::Float);
  if (rows == 0) return {of_anchors, of_table, share, of_temperature};
  const cudaStream_t stream = current_stream(anchors);
  const int64_t count = items.size(0) * width;
  Tensor sum = new_zeros(anchors, {count}, ScalarType::Long), units = new_empty(anchors, {2}, ScalarType::Int);
  by_dtype(op, "anchors", anchors, [&]<class T>(T) {
    const auto p = sampled<T>(anchors, items, negatives, log_weight, temperature, positives, exclude, scale);
    const unsigned grid = static_cast<unsigned>(rows);
    auto* const total = static_cast<unsigned long long*>(sum.mutable_data_ptr());
    sampled_products<T><<<grid, THREADS, 0, stream>>>(p, mutable_data<float>(share));
    sampled_shares<T><<<grid, THREADS, 0, stream>>>(p, floats(grad), floats(lse), mutable_data<float>(share),
                                                    mutable_data<T>(of_anchors),
                                                    temperature ? mutable_data<float>(of_temperature) : nullptr);
    choose_units<T><<<1, THREADS, 0, stream>>>(p, floats(grad), mutable_data<int>(units));
    sampled_table<T><<<grid, THREADS, 0, stream>>>(p, data<float>(share), mutable_data<int>(units), total);
    if (count > 0)
      from_units<T><<<blocks(count, THREADS), THREADS, 0, stream>>>(total, data<int>(units), count, mutable_data<T>(of_table));
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {of_anchors, of_table, share, of_temperature};
}

// --- log-sum-exp of logits that exist already

template <class T>
struct Given {
  Table<T> logits;
  Table<bool> live;  // or null
  int64_t rows, count;
  __device__ float operator()(int64_t b, int64_t j) const {
    return live.at && !live(b, j) ? -INFINITY : to_float(logits(b, j));
  }
};

// A block a row.
template <class T>
__global__ void __launch_bounds__(THREADS, 1) given_reduce(Given<T> p, float* lse) {
  __shared__ float shared[THREADS];
  const int64_t b = blockIdx.x;
  float top = -INFINITY, total = 0.f;
#pragma unroll 1
  for (int64_t j = threadIdx.x; j < p.count; j += THREADS) top = fmaxf(top, p(b, j));
  top = block_reduce(top, shared, [](float x, float y) { return fmaxf(x, y); });
  const float shift = top > -INFINITY ? top : 0.f;  // a logit that is not a number must reach the sum
#pragma unroll 1
  for (int64_t j = threadIdx.x; j < p.count; j += THREADS) total += expf(p(b, j) - shift);
  total = block_reduce(total, shared, [](float x, float y) { return x + y; });
  if (threadIdx.x == 0) lse[b] = total == 0.f ? -INFINITY : shift + logf(total);
}

template <class T>
__global__ void __launch_bounds__(THREADS, 1) given_shares(Given<T> p, Floats grad, Floats lse, T* out) {
  const int64_t b = blockIdx.x;
  const float whole = lse(b), upstream = grad(b);
  for (int64_t j = threadIdx.x; j < p.count; j += THREADS) {
    const float z = p(b, j);
    const bool counts = whole != -INFINITY && z != -INFINITY;
    out[b * p.count + j] = from_float<T>(counts ? upstream * expf(z - whole) : 0.f);
  }
}

template <class T>
Given<T> given(const Tensor& logits, const std::optional<Tensor>& live) {
  return {table<T>(logits), live ? table<bool>(*live) : Table<bool>{nullptr, 0, 0}, logits.size(0), logits.size(1)};
}

void check_given(const char* op, const Tensor& logits, const std::optional<Tensor>& live) {
  check_dim(op, "logits", logits, 2);
  if (!live) return;
  check_dim(op, "live", *live, 2);
  for (int64_t axis : {0, 1}) check_size(op, "live", *live, axis, logits.size(axis));
  check_dtype(op, "live", *live, ScalarType::Bool, "bool");
  check_device(op, "live", *live, logits);
}

Tensor logsumexp_rows(const Tensor& logits, const std::optional<Tensor>& live) {
  const char* op = "logsumexp_rows";
  check_given(op, logits, live);
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  Tensor lse = new_empty(logits, {logits.size(0)}, ScalarType::Float);
  if (logits.size(0) == 0) return lse;
  const cudaStream_t stream = current_stream(logits);
  by_dtype(op, "logits", logits, [&]<class T>(T) {
    given_reduce<T><<<static_cast<unsigned>(logits.size(0)), THREADS, 0, stream>>>(given<T>(logits, live),
                                                                                   mutable_data<float>(lse));
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return lse;
}

Tensor logsumexp_rows_backward(const Tensor& grad, const Tensor& logits, const std::optional<Tensor>& live,
                               const Tensor& lse) {
  const char* op = "logsumexp_rows_backward";
  check_given(op, logits, live);
  check_floats(op, "grad", grad, logits.size(0), logits);
  check_floats(op, "lse", lse, logits.size(0), logits);
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  Tensor out = new_empty(logits, {logits.size(0), logits.size(1)});
  if (out.numel() == 0) return out;
  const cudaStream_t stream = current_stream(logits);
  by_dtype(op, "logits", logits, [&]<class T>(T) {
    given_shares<T><<<static_cast<unsigned>(logits.size(0)), THREADS, 0, stream>>>(given<T>(logits, live), floats(grad),
                                                                                   floats(lse), mutable_data<T>(out));
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace
}  // namespace recengine::cuda

STABLE_TORCH_LIBRARY_IMPL(recengine, CUDA, m) {
  m.impl("linear_cross_entropy", TORCH_BOX(&recengine::cuda::linear_cross_entropy));
  m.impl("linear_cross_entropy_backward", TORCH_BOX(&recengine::cuda::linear_cross_entropy_backward));
  m.impl("sampled_scores", TORCH_BOX(&recengine::cuda::sampled_scores));
  m.impl("sampled_logsumexp", TORCH_BOX(&recengine::cuda::sampled_logsumexp));
  m.impl("sampled_logsumexp_backward", TORCH_BOX(&recengine::cuda::sampled_logsumexp_backward));
  m.impl("logsumexp_rows", TORCH_BOX(&recengine::cuda::logsumexp_rows));
  m.impl("logsumexp_rows_backward", TORCH_BOX(&recengine::cuda::logsumexp_rows_backward));
}
