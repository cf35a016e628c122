// recengine::topk and recengine::rank_of on CUDA. Not yet run on a GPU.
//
// A block of threads scores tiles of 64 users x 128 items in shared memory and keeps, for each user, the
// best k so far as sorted 64-bit keys (key order = retrieval order). A score that beats the k-th of them
// waits in shared memory; 64 waiting ones are sorted and merged by rank. The items are cut into parts so
// that few users still fill the machine; a last kernel merges the parts. No atomics decide an order, nothing
// is read back to the host, so results repeat bit for bit and the calls can be captured in a graph.
//
// float32 multiplies on the cores in the order of the dimensions (the chain of topk.h); float16 and
// bfloat16 use the matrix units with float32 accumulation. Ids and targets cannot be looked at from the
// host: what lies outside the catalogue is ignored, a target outside gives rank -1.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <mma.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <type_traits>

#include "retrieval/inputs.h"

namespace recengine::retrieval {
namespace {

using Key = unsigned long long;
using std::optional;

constexpr int USERS = 64, ITEMS = 128, DEPTH = 32;  // of a tile
constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int WAITING = 64;          // keys a user may hold before they are merged
constexpr int SCORE_ROW = ITEMS + 4;  // floats, padded against bank conflicts
constexpr Key NO_KEY = ~Key{0};
constexpr int64_t WORKSPACE = int64_t{256} << 20;

template <class T>
struct Device {
  const T* data;
  int64_t rows, cols, row_stride, col_stride;
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ __forceinline__ Key make_key(float score, unsigned id) {
  unsigned b = __float_as_uint(score);
  if (b == 0x80000000u) b = 0;  // -0 equals +0
  const unsigned ascending = b & 0x80000000u ? ~b : b | 0x80000000u;
  return static_cast<Key>(~ascending) << 32 | id;
}
__device__ __forceinline__ float key_score(Key key) {
  const unsigned ascending = ~static_cast<unsigned>(key >> 32);
  return __uint_as_float(ascending & 0x80000000u ? ascending & 0x7fffffffu : ~ascending);
}

__device__ __forceinline__ int64_t seen_at(const Seen& seen, int64_t i) {
  return seen.wide ? static_cast<const int64_t*>(seen.ids)[i] : static_cast<const int32_t*>(seen.ids)[i];
}

// How many of sorted[0 .. n) are smaller than key.
__device__ __forceinline__ int count_below(const Key* sorted, int n, Key key) {
  int low = 0;
  while (n > 0) {
    const int half = n / 2;
    if (sorted[low + half] < key) {
      low += half + 1;
      n -= half + 1;
    } else {
      n = half;
    }
  }
  return low;
}

// Scores of USERS x ITEMS into scores[USERS][SCORE_ROW]; rows outside the matrices give zeros.
template <class T>
struct CoreTile {  // float32 multiply-adds in the order of the dimensions
  float q[DEPTH][USERS + 4], x[DEPTH][ITEMS + 4];

  __device__ void score(const Device<T>& queries, int64_t first_user, const Device<T>& items, int64_t first_item,
                        float* scores) {
    const int tx = threadIdx.x % 32, ty = threadIdx.x / 32;  // a thread: users ty * 8 .., items tx * 4 ..
    float acc[8][4] = {};
    for (int64_t k0 = 0; k0 < queries.cols; k0 += DEPTH) {
      __syncthreads();
      for (int i = threadIdx.x; i < USERS * DEPTH; i += THREADS) {
        const int64_t r = first_user + i / DEPTH, c = k0 + i % DEPTH;
        q[i % DEPTH][i / DEPTH] = r < queries.rows && c < queries.cols
                                      ? widen(queries.data[r * queries.row_stride + c * queries.col_stride]) : 0.f;
      }
      for (int i = threadIdx.x; i < ITEMS * DEPTH; i += THREADS) {
        const int64_t r = first_item + i / DEPTH, c = k0 + i % DEPTH;
        x[i % DEPTH][i / DEPTH] = r < items.rows && c < items.cols
                                      ? widen(items.data[r * items.row_stride + c * items.col_stride]) : 0.f;
      }
      __syncthreads();
      const int depth = static_cast<int>(queries.cols - k0 < DEPTH ? queries.cols - k0 : DEPTH);
      for (int k = 0; k < depth; ++k) {
        const float4 a0 = *reinterpret_cast<const float4*>(&q[k][ty * 8]);
        const float4 a1 = *reinterpret_cast<const float4*>(&q[k][ty * 8 + 4]);
        const float4 b = *reinterpret_cast<const float4*>(&x[k][tx * 4]);
        const float a[8] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          acc[i][0] = fmaf(a[i], b.x, acc[i][0]);
          acc[i][1] = fmaf(a[i], b.y, acc[i][1]);
          acc[i][2] = fmaf(a[i], b.z, acc[i][2]);
          acc[i][3] = fmaf(a[i], b.w, acc[i][3]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
      *reinterpret_cast<float4*>(scores + (ty * 8 + i) * SCORE_ROW + tx * 4) =
          make_float4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
    __syncthreads();
  }
};

template <class T>
struct MatrixTile {  // 16-bit operands on the matrix units
  static constexpr int ROW = DEPTH + 8;
  T q[USERS * ROW], x[ITEMS * ROW];

  __device__ void score(const Device<T>& queries, int64_t first_user, const Device<T>& items, int64_t first_item,
                        float* scores) {
    namespace wmma = nvcuda::wmma;
    const int warp = threadIdx.x / 32, row = warp % 4 * 16, column = warp / 4 * 64;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> acc[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) wmma::fill_fragment(acc[j], 0.f);
    const T zero = static_cast<T>(0.f);
    for (int64_t k0 = 0; k0 < queries.cols; k0 += DEPTH) {
      __syncthreads();
      for (int i = threadIdx.x; i < USERS * DEPTH; i += THREADS) {
        const int64_t r = first_user + i / DEPTH, c = k0 + i % DEPTH;
        q[i / DEPTH * ROW + i % DEPTH] = r < queries.rows && c < queries.cols
                                             ? queries.data[r * queries.row_stride + c * queries.col_stride] : zero;
      }
      for (int i = threadIdx.x; i < ITEMS * DEPTH; i += THREADS) {
        const int64_t r = first_item + i / DEPTH, c = k0 + i % DEPTH;
        x[i / DEPTH * ROW + i % DEPTH] =
            r < items.rows && c < items.cols ? items.data[r * items.row_stride + c * items.col_stride] : zero;
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < DEPTH; k += 16) {
        wmma::fragment<wmma::matrix_a, 16, 16, 16, T, wmma::row_major> a;
        wmma::load_matrix_sync(a, q + row * ROW + k, ROW);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          wmma::fragment<wmma::matrix_b, 16, 16, 16, T, wmma::col_major> b;
          wmma::load_matrix_sync(b, x + (column + j * 16) * ROW + k, ROW);
          wmma::mma_sync(acc[j], a, b, acc[j]);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j)
      wmma::store_matrix_sync(scores + row * SCORE_ROW + column + j * 16, acc[j], SCORE_ROW, wmma::mem_row_major);
    __syncthreads();
  }
};

template <class T>
using TileOf = std::conditional_t<std::is_same_v<T, float>, CoreTile<T>, MatrixTile<T>>;

template <class T>
struct Shared {
  float scores[USERS * SCORE_ROW];
  Key waiting[USERS][WAITING];
  Key sorted[WARPS][WAITING];
  float threshold[USERS];
  int held[USERS], kept[USERS], side[USERS];
  TileOf<T> tile;
};

// A warp merges the waiting keys of a user into its sorted list: seen ones are dropped, the list of one side
// is read and that of the other side written.
template <class T>
__device__ void merge(Shared<T>& s, int u, const Seen& seen, int64_t user, Key* lists, int k) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Key* waiting = s.waiting[u];
  const int n = s.held[u];
  __syncwarp();
  if (seen.indptr) {
    const int64_t from = seen.indptr[user], to = seen.indptr[user + 1];
    for (int j = 0; j < n; ++j) {
      const int64_t id = static_cast<unsigned>(waiting[j]);
      bool found = false;
      for (int64_t i = from + lane; i < to; i += 32) found |= seen_at(seen, i) == id;
      if (__any_sync(~0u, found) && lane == 0) waiting[j] = NO_KEY;
      __syncwarp();
    }
  }
  int valid = 0;
  for (int base = 0; base < n; base += 32) {
    const int j = base + lane;
    const Key key = j < n ? waiting[j] : NO_KEY;
    int rank = 0;
    for (int i = 0; i < n; ++i) rank += waiting[i] < key;
    if (key != NO_KEY) s.sorted[warp][rank] = key;
    valid += __popc(__ballot_sync(~0u, key != NO_KEY));
  }
  __syncwarp();
  const int kept = s.kept[u], total = min(k, kept + valid);
  const Key *old = lists + s.side[u] * k, *fresh = s.sorted[warp];
  Key* out = lists + (1 - s.side[u]) * k;
  for (int i = lane; i < kept; i += 32) {
    const int at = i + count_below(fresh, valid, old[i]);
    if (at < k) out[at] = old[i];
  }
  for (int i = lane; i < valid; i += 32) {
    const int at = i + count_below(old, kept, fresh[i]);
    if (at < k) out[at] = fresh[i];
  }
  __syncwarp();
  if (lane == 0) {
    s.side[u] = 1 - s.side[u];
    s.kept[u] = total;
    s.held[u] = 0;
    if (total == k) s.threshold[u] = key_score(out[k - 1]);
  }
  __syncwarp();
}

// Part blockIdx.y of the items for 64 users: lists[user][part][2][k], counts[user][part] = kept * 2 + side.
template <class T>
__global__ void __launch_bounds__(THREADS, 2)
    topk_parts(Device<T> queries, Device<T> items, const float* bias, Seen seen, int64_t first_user, int64_t n_users,
               int k, int64_t part_items, Key* lists, int* counts) {
  extern __shared__ __align__(128) unsigned char memory[];
  Shared<T>& s = *reinterpret_cast<Shared<T>*>(memory);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t tile_user = static_cast<int64_t>(blockIdx.x) * USERS;
  const int64_t begin = blockIdx.y * part_items;
  const int64_t end = begin + part_items < items.rows ? begin + part_items : items.rows;
  auto list_of = [&](int u) { return lists + ((tile_user + u) * gridDim.y + blockIdx.y) * 2 * k; };
  for (int u = threadIdx.x; u < USERS; u += THREADS) {
    s.threshold[u] = -INFINITY;
    s.held[u] = s.kept[u] = s.side[u] = 0;
  }
  __syncthreads();
  for (int64_t i0 = begin; i0 < end; i0 += ITEMS) {
    s.tile.score(queries, first_user + tile_user, items, i0, s.scores);
    for (int u = warp; u < USERS && tile_user + u < n_users; u += WARPS) {
      for (int c = lane; c < ITEMS; c += 32) {
        const int64_t id = i0 + c;
        float score = s.scores[u * SCORE_ROW + c];
        if (bias && id < end) score += bias[id];
        const bool enters = id < end && score > s.threshold[u];
        const unsigned hits = __ballot_sync(~0u, enters);
        if (!hits) continue;
        if (s.held[u] + __popc(hits) > WAITING) merge(s, u, seen, first_user + tile_user + u, list_of(u), k);
        const int held = s.held[u];
        __syncwarp();
        if (enters)
          s.waiting[u][held + __popc(hits & ((1u << lane) - 1))] = make_key(score, static_cast<unsigned>(id));
        if (lane == 0) s.held[u] = held + __popc(hits);
        __syncwarp();
      }
    }
    __syncthreads();  // before the next tile overwrites the scores
  }
  for (int u = warp; u < USERS && tile_user + u < n_users; u += WARPS) {
    if (s.held[u]) merge(s, u, seen, first_user + tile_user + u, list_of(u), k);
    if (lane == 0) counts[(tile_user + u) * gridDim.y + blockIdx.y] = s.kept[u] * 2 + s.side[u];
  }
}

// A key's place in the final list is its place in its own part plus how many of every other part precede it.
__global__ void __launch_bounds__(THREADS)
    topk_join(const Key* lists, const int* counts, int parts, int64_t n_users, int k, float* scores, int64_t* ids) {
  const int64_t user = blockIdx.x * static_cast<int64_t>(WARPS) + threadIdx.x / 32;
  if (user >= n_users) return;
  const int lane = threadIdx.x % 32;
  auto list = [&](int p) { return lists + (user * parts + p) * 2 * k + (counts[user * parts + p] & 1) * k; };
  auto count = [&](int p) { return counts[user * parts + p] >> 1; };
  int total = 0;
  for (int p = 0; p < parts; ++p) total += count(p);
  for (int i = total + lane; i < k; i += 32) {
    scores[user * k + i] = -INFINITY;
    ids[user * k + i] = -1;
  }
  for (int p = 0; p < parts; ++p)
    for (int i = lane; i < count(p); i += 32) {
      const Key key = list(p)[i];
      int at = i;
      for (int other = 0; other < parts && at < k; ++other)
        if (other != p) at += count_below(list(other), count(other), key);
      if (at >= k) continue;
      scores[user * k + at] = key_score(key);
      ids[user * k + at] = static_cast<unsigned>(key);
    }
}

template <class T>
__device__ float chain_score(const Device<T>& queries, int64_t user, const Device<T>& items, int64_t item,
                             const float* bias) {
  float sum = 0.f;
  for (int64_t j = 0; j < queries.cols; ++j)
    sum = fmaf(widen(queries.data[user * queries.row_stride + j * queries.col_stride]),
               widen(items.data[item * items.row_stride + j * items.col_stride]), sum);
  return bias ? sum + bias[item] : sum;
}

template <class T>
struct RankShared {
  float scores[USERS * SCORE_ROW];
  float own[USERS];
  int64_t target[USERS];
  CoreTile<T> tile;
};

// Part blockIdx.y: before[user][part] = items of the part that come before the target, or -1.
template <class T>
__global__ void __launch_bounds__(THREADS, 2)
    rank_parts(Device<T> queries, Device<T> items, const float* bias, const int64_t* targets, int64_t part_items,
               int* before) {
  extern __shared__ __align__(128) unsigned char memory[];
  RankShared<T>& s = *reinterpret_cast<RankShared<T>*>(memory);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * USERS, begin = blockIdx.y * part_items;
  const int64_t end = begin + part_items < items.rows ? begin + part_items : items.rows;
  for (int u = threadIdx.x; u < USERS; u += THREADS) {
    s.target[u] = first + u < queries.rows ? targets[first + u] : -1;
    const bool known = s.target[u] >= 0 && s.target[u] < items.rows;
    s.own[u] = known ? chain_score(queries, first + u, items, s.target[u], bias) : -INFINITY;
  }
  __syncthreads();
  int count[USERS / WARPS] = {};
  for (int64_t i0 = begin; i0 < end; i0 += ITEMS) {
    s.tile.score(queries, first, items, i0, s.scores);
#pragma unroll
    for (int j = 0; j < USERS / WARPS; ++j) {
      const int u = warp + j * WARPS;
      for (int c = lane; c < ITEMS; c += 32) {
        const int64_t id = i0 + c;
        if (id >= end || id == s.target[u]) continue;
        const float score = bias ? s.scores[u * SCORE_ROW + c] + bias[id] : s.scores[u * SCORE_ROW + c];
        count[j] += score > s.own[u] || (score == s.own[u] && id < s.target[u]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int j = 0; j < USERS / WARPS; ++j) {
    const int u = warp + j * WARPS;
    const int sum = __reduce_add_sync(~0u, count[j]);
    if (lane == 0 && first + u < queries.rows)
      before[(first + u) * gridDim.y + blockIdx.y] = s.own[u] > -INFINITY ? sum : -1;
  }
}

// Sums the parts and takes the seen items out again, each once (the first of its repeats).
template <class T>
__global__ void __launch_bounds__(THREADS)
    rank_join(Device<T> queries, Device<T> items, const float* bias, const int64_t* targets, Seen seen,
              const int* before, int parts, int64_t* ranks) {
  const int64_t user = blockIdx.x * static_cast<int64_t>(WARPS) + threadIdx.x / 32;
  if (user >= queries.rows) return;
  const int lane = threadIdx.x % 32;
  int64_t sum = 0;
  for (int p = 0; p < parts; ++p) sum += before[user * parts + p];
  if (parts == 0 || before[user * parts] < 0) {
    if (lane == 0) ranks[user] = -1;
    return;
  }
  int out = 0;
  if (seen.indptr) {
    const int64_t target = targets[user], from = seen.indptr[user], to = seen.indptr[user + 1];
    const float own = chain_score(queries, user, items, target, bias);
    for (int64_t i = from + lane; i < to; i += 32) {
      const int64_t id = seen_at(seen, i);
      bool counts = id >= 0 && id < items.rows && id != target;
      for (int64_t j = from; counts && j < i; ++j) counts = seen_at(seen, j) != id;
      if (!counts) continue;
      const float score = chain_score(queries, user, items, id, bias);
      out += score > own || (score == own && id < target);
    }
  }
  __syncwarp();
  const int left_out = __reduce_add_sync(~0u, out);
  if (lane == 0) ranks[user] = sum - left_out;
}

template <class T>
Device<T> device_matrix(const Tensor& t) {
  return {static_cast<const T*>(t.const_data_ptr()), t.size(0), t.size(1), t.stride(0), t.stride(1)};
}

// Calls fn with a null pointer of the tensor's element type.
template <class F>
void with_type(const Tensor& t, F&& fn) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return fn(static_cast<const float*>(nullptr));
    case ScalarType::Half: return fn(static_cast<const __half*>(nullptr));
    default: return fn(static_cast<const __nv_bfloat16*>(nullptr));
  }
}

cudaStream_t current_stream(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Into how many parts the items are cut so that about two blocks a multiprocessor are at work.
int64_t parts_for(const Tensor& t, int64_t user_tiles, int64_t n_items) {
  int processors = 1;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, t.get_device_index()));
  const int64_t wanted = (2 * processors + user_tiles - 1) / std::max<int64_t>(user_tiles, 1);
  return std::clamp<int64_t>(std::min<int64_t>(wanted, n_items / (8 * ITEMS)), 1, 64);
}

int64_t part_size(int64_t n_items, int64_t parts) { return ((n_items + parts - 1) / parts + ITEMS - 1) / ITEMS * ITEMS; }

std::tuple<Tensor, Tensor> topk(const Tensor& queries, const Tensor& items, const optional<Tensor>& bias,
                                const optional<Tensor>& seen_indptr, const optional<Tensor>& seen_items, int64_t k) {
  const char* op = "topk";
  check_pair(op, queries, items, true);
  RECENGINE_CHECK(k >= 1 && k <= 1000, op, ": k is ", k, ", expected 1 to 1000");
  const optional<Tensor> flat = check_bias(op, bias, items);
  const SeenInput seen = check_seen_shapes(op, seen_indptr, seen_items, queries);
  const torch::stable::accelerator::DeviceGuard guard(queries.get_device_index());
  const int64_t rows = queries.size(0), n = items.size(0);
  Tensor scores = torch::stable::new_empty(queries, {rows, k}, ScalarType::Float);
  Tensor ids = torch::stable::new_empty(queries, {rows, k}, ScalarType::Long);
  if (rows == 0) return {scores, ids};
  const cudaStream_t stream = current_stream(queries);
  const int64_t parts = parts_for(queries, (rows + USERS - 1) / USERS, n), each = std::max<int64_t>(part_size(n, parts), ITEMS);
  const int64_t row_bytes = parts * 2 * k * static_cast<int64_t>(sizeof(Key));
  const int64_t chunk = std::min(rows, std::max<int64_t>(WORKSPACE / row_bytes / USERS, 1) * USERS);
  Tensor lists = torch::stable::new_empty(queries, {chunk * parts * 2 * k}, ScalarType::Long);
  Tensor counts = torch::stable::new_empty(queries, {chunk * parts}, ScalarType::Int);
  Key* list = reinterpret_cast<Key*>(lists.mutable_data_ptr<int64_t>());
  int* count = counts.mutable_data_ptr<int32_t>();
  with_type(queries, [&](auto* kind) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(kind)>>;
    constexpr int bytes = static_cast<int>(sizeof(Shared<T>));
    STD_CUDA_CHECK(cudaFuncSetAttribute(topk_parts<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    for (int64_t u = 0; u < rows; u += chunk) {
      const int64_t users = std::min(chunk, rows - u);
      const dim3 grid(static_cast<unsigned>((users + USERS - 1) / USERS), static_cast<unsigned>(parts));
      topk_parts<T><<<grid, THREADS, bytes, stream>>>(
          device_matrix<T>(queries), device_matrix<T>(items), flat ? flat->const_data_ptr<float>() : nullptr, seen.view,
          u, users, static_cast<int>(k), each, list, count);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      topk_join<<<static_cast<unsigned>((users + WARPS - 1) / WARPS), THREADS, 0, stream>>>(
          list, count, static_cast<int>(parts), users, static_cast<int>(k), scores.mutable_data_ptr<float>() + u * k,
          ids.mutable_data_ptr<int64_t>() + u * k);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
  });
  return {scores, ids};
}

Tensor rank_of(const Tensor& queries, const Tensor& items, const Tensor& targets, const optional<Tensor>& bias,
               const optional<Tensor>& seen_indptr, const optional<Tensor>& seen_items) {
  const char* op = "rank_of";
  check_pair(op, queries, items, true);
  check_targets(op, targets, queries);
  const optional<Tensor> flat = check_bias(op, bias, items);
  const SeenInput seen = check_seen_shapes(op, seen_indptr, seen_items, queries);
  const torch::stable::accelerator::DeviceGuard guard(queries.get_device_index());
  const int64_t rows = queries.size(0), n = items.size(0);
  Tensor ranks = torch::stable::new_empty(queries, {rows}, ScalarType::Long);
  if (rows == 0) return ranks;
  const Tensor wanted = torch::stable::contiguous(targets);
  const cudaStream_t stream = current_stream(queries);
  const int64_t tiles = (rows + USERS - 1) / USERS, parts = parts_for(queries, tiles, n);
  Tensor before = torch::stable::new_empty(queries, {rows * parts}, ScalarType::Int);
  with_type(queries, [&](auto* kind) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(kind)>>;
    constexpr int bytes = static_cast<int>(sizeof(RankShared<T>));
    const float* offsets = flat ? flat->const_data_ptr<float>() : nullptr;
    STD_CUDA_CHECK(cudaFuncSetAttribute(rank_parts<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(parts));
    rank_parts<T><<<grid, THREADS, bytes, stream>>>(device_matrix<T>(queries), device_matrix<T>(items), offsets,
                                                    wanted.const_data_ptr<int64_t>(),
                                                    std::max<int64_t>(part_size(n, parts), ITEMS),
                                                    before.mutable_data_ptr<int32_t>());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    rank_join<T><<<static_cast<unsigned>((rows + WARPS - 1) / WARPS), THREADS, 0, stream>>>(
        device_matrix<T>(queries), device_matrix<T>(items), offsets, wanted.const_data_ptr<int64_t>(), seen.view,
        before.const_data_ptr<int32_t>(), static_cast<int>(parts), ranks.mutable_data_ptr<int64_t>());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return ranks;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(recengine, CUDA, m) {
  m.impl("topk", TORCH_BOX(&topk));
  m.impl("rank_of", TORCH_BOX(&rank_of));
}

}  // namespace recengine::retrieval
