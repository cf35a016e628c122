// Routing and grouped SwiGLU on CUDA. Not yet run on a GPU: designs are chosen to be plainly right. Nothing
// waits for the device: every group gets the blocks it could need at most, and those without rows leave at
// once. Counts are whole numbers and every sum has a fixed order, so the bits are the same from run to run.
//
// A place is one (row, position, slot): slot j of k chosen experts. Places of an expert are listed in row order;
// the hidden layer and the outputs are kept by place and added up per row at the end, so no atomics are needed.
#include <algorithm>
#include <optional>
#include <tuple>

#include "common/launch.cuh"

namespace recengine::cuda {
namespace {

using torch::stable::new_empty;
using torch::stable::new_zeros;

constexpr int MOST_EXPERTS = 256;

template <class T>
struct Tokens {  // [B, T, D], any strides
  const T* at;
  int64_t row, position, col;
  __device__ T operator()(int64_t b, int64_t t, int64_t d) const { return at[b * row + t * position + d * col]; }
};
template <class T>
Tokens<T> tokens(const Tensor& x) {
  return {data<T>(x), x.stride(0), x.stride(1), x.stride(2)};
}

template <class T>
struct Weights {  // [T, E, rows, cols], any strides
  const T* at;
  int64_t position, expert, row, col;
  __device__ T operator()(int64_t t, int64_t e, int64_t r, int64_t c) const {
    return at[t * position + e * expert + r * row + c * col];
  }
};
template <class T>
Weights<T> weights(const Tensor& w) {
  return {data<T>(w), w.stride(0), w.stride(1), w.stride(2), w.stride(3)};
}

__device__ float sigmoid(float z) { return 1.f / (1.f + expf(-z)); }

__device__ float warp_sum(float x) {
  for (int h = 16; h > 0; h /= 2) x += __shfl_xor_sync(0xffffffffu, x, h);
  return x;
}

// --- routing: a warp a token

template <class T, class R>
__global__ void __launch_bounds__(THREADS, 1) route_tokens(Tokens<T> x, const R* router, int64_t router_position, int64_t router_row,
                                                        int64_t router_col, int64_t count, int64_t positions, int64_t width,
                                                        int experts, int k, int64_t* chosen, float* gates,
                                                        unsigned long long* load) {
  __shared__ float shared[THREADS / 32][MOST_EXPERTS];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t token = int64_t{blockIdx.x} * (THREADS / 32) + warp;
  if (token >= count) return;
  const int64_t b = token / positions, t = token % positions;
  float* const logits = shared[warp];
  for (int e = 0; e < experts; ++e) {
    float sum = 0.f;
    for (int64_t d = lane; d < width; d += 32)
      sum += to_float(x(b, t, d)) * to_float(router[t * router_position + d * router_row + e * router_col]);
    sum = warp_sum(sum);
    if (lane == 0) logits[e] = sum;
  }
  if (lane != 0) return;
  int64_t* const own = chosen + token * k;
  for (int j = 0; j < k; ++j) {
    int best = -1;
    for (int e = 0; e < experts; ++e) {
      bool taken = false;
      for (int i = 0; i < j; ++i) taken |= own[i] == e;
      if (!taken && (best < 0 || logits[e] > logits[best])) best = e;
    }
    own[j] = best;
    atomicAdd(load + t * experts + best, 1ull);
  }
  float total = 0.f;
  const float top = logits[own[0]];
  for (int j = 0; j < k; ++j) total += expf(logits[own[j]] - top);
  for (int j = 0; j < k; ++j) gates[token * k + j] = expf(logits[own[j]] - top) / total;
}

// The gradient of the logits, [B, T, E], zero where not chosen.
__global__ void __launch_bounds__(THREADS, 1)
    route_change(const int64_t* chosen, const float* gates, const float* grad, int64_t count, int experts, int k, float* change) {
  const int64_t token = int64_t{blockIdx.x} * THREADS + threadIdx.x;
  if (token >= count) return;
  float inner = 0.f;
  for (int j = 0; j < k; ++j) inner += gates[token * k + j] * grad[token * k + j];
  for (int e = 0; e < experts; ++e) change[token * experts + e] = 0.f;
  for (int j = 0; j < k; ++j)
    change[token * experts + chosen[token * k + j]] = gates[token * k + j] * (grad[token * k + j] - inner);
}

template <class T, class R>
__global__ void __launch_bounds__(THREADS, 1)
    route_x(const R* router, int64_t router_position, int64_t router_row, int64_t router_col, const float* change, int64_t count,
            int64_t positions, int64_t width, int experts, T* out) {
  const int64_t i = int64_t{blockIdx.x} * THREADS + threadIdx.x;
  if (i >= count * width) return;
  const int64_t token = i / width, d = i % width, t = token % positions;
  float sum = 0.f;
  for (int e = 0; e < experts; ++e)
    sum += change[token * experts + e] * to_float(router[t * router_position + d * router_row + e * router_col]);
  out[i] = from_float<T>(sum);
}

// A warp a weight.
template <class T, class R>
__global__ void __launch_bounds__(THREADS, 1) route_weight(Tokens<T> x, const float* change, int64_t rows, int64_t positions,
                                                        int64_t width, int experts, R* out) {
  const int64_t i = (int64_t{blockIdx.x} * THREADS + threadIdx.x) / 32;
  if (i >= positions * width * experts) return;
  const int64_t e = i % experts, d = i / experts % width, t = i / experts / width;
  float sum = 0.f;
  for (int64_t b = threadIdx.x % 32; b < rows; b += 32)
    sum += to_float(x(b, t, d)) * change[(b * positions + t) * experts + e];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) out[i] = from_float<R>(sum);
}

void check_router(const char* op, const Tensor& x, const Tensor& router) {
  check_dim(op, "x", x, 3);
  check_dim(op, "router", router, 3);
  check_size(op, "router", router, 0, x.size(1));
  check_size(op, "router", router, 1, x.size(2));
  check_device(op, "router", router, x);
  RECENGINE_CHECK(router.size(2) <= MOST_EXPERTS, op, ": router has ", router.size(2), " experts, expected at most ", MOST_EXPERTS);
}

std::tuple<Tensor, Tensor, Tensor> moe_route(const Tensor& x, const Tensor& router, int64_t k) {
  const char* op = "moe_route";
  check_router(op, x, router);
  const int64_t rows = x.size(0), positions = x.size(1), experts = router.size(2);
  RECENGINE_CHECK(k >= 1 && k <= experts, op, ": k is ", k, ", expected 1 to the number of experts (", experts, ")");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor chosen = new_empty(x, {rows, positions, k}, ScalarType::Long), gates = new_empty(x, {rows, positions, k}, ScalarType::Float);
  Tensor load = new_zeros(x, {positions, experts}, ScalarType::Long);
  const int64_t count = rows * positions;
  if (count == 0) return {gates, chosen, load};
  const cudaStream_t stream = current_stream(x);
  by_dtype(op, "x", x, [&]<class T>(T) {
    by_dtype(op, "router", router, [&]<class R>(R) {
      route_tokens<T, R><<<blocks(count, THREADS / 32), THREADS, 0, stream>>>(
          tokens<T>(x), data<R>(router), router.stride(0), router.stride(1), router.stride(2), count, positions, x.size(2),
          static_cast<int>(experts), static_cast<int>(k), mutable_data<int64_t>(chosen), mutable_data<float>(gates),
          static_cast<unsigned long long*>(load.mutable_data_ptr()));
    });
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {gates, chosen, load};
}

std::tuple<Tensor, Tensor> moe_route_backward(const Tensor& gates_grad, const Tensor& x, const Tensor& router,
                                              const Tensor& experts, const Tensor& gates) {
  const char* op = "moe_route_backward";
  check_router(op, x, router);
  check_device(op, "experts", experts, x);
  check_device(op, "gates", gates, x);
  check_device(op, "gates_grad", gates_grad, x);
  check_dtype(op, "gates_grad", gates_grad, ScalarType::Float, "float32");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const int64_t rows = x.size(0), positions = x.size(1), width = x.size(2), count = rows * positions;
  const int number = static_cast<int>(router.size(2)), k = static_cast<int>(gates.size(2));
  const Tensor chosen = torch::stable::contiguous(experts), own = torch::stable::contiguous(gates);
  const Tensor grad = torch::stable::contiguous(gates_grad);
  Tensor of_x = new_empty(x, {rows, positions, width}), of_router = new_zeros(router, {positions, width, router.size(2)});
  if (count == 0 || width == 0) return {of_x, of_router};
  Tensor change = new_empty(x, {count, router.size(2)}, ScalarType::Float);
  const cudaStream_t stream = current_stream(x);
  route_change<<<blocks(count, THREADS), THREADS, 0, stream>>>(data<int64_t>(chosen), data<float>(own), data<float>(grad), count,
                                                               number, k, mutable_data<float>(change));
  by_dtype(op, "x", x, [&]<class T>(T) {
    by_dtype(op, "router", router, [&]<class R>(R) {
      route_x<T, R><<<blocks(count * width, THREADS), THREADS, 0, stream>>>(
          data<R>(router), router.stride(0), router.stride(1), router.stride(2), data<float>(change), count, positions, width,
          number, mutable_data<T>(of_x));
      route_weight<T, R><<<blocks(positions * width * number * 32, THREADS), THREADS, 0, stream>>>(
          tokens<T>(x), data<float>(change), rows, positions, width, number, mutable_data<R>(of_router));
    });
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {of_x, of_router};
}

// --- experts

// Who works on what. Without lists (dense): expert 0 of position t has the places (b, t, 0) for every row b.
struct Groups {
  const int32_t* list;   // [T * E][B * k] rows * k + slot, or null
  const int32_t* count;  // [T * E]
  const float* gates;    // [B, T, k] or null
  float alpha;
  int64_t rows, positions, experts, k;

  __device__ int64_t size(int64_t group) const { return list ? count[group] : rows; }
  // Row and place of member i of a group.
  // (32-bit divisions: the 64-bit one is a call, around which the tile would spill.)
  __device__ int64_t row(int64_t group, int64_t i) const {
    return list ? list[group * rows * k + i] / static_cast<int32_t>(k) : i;
  }
  __device__ int64_t place(int64_t group, int64_t i) const {
    const int64_t t = static_cast<int32_t>(group) / static_cast<int32_t>(experts);
    if (!list) return i * positions + t;
    const int32_t member = list[group * rows * k + i], slots = static_cast<int32_t>(k);
    return (int64_t{member / slots} * positions + t) * k + member % slots;
  }
  __device__ float scale(int64_t place) const { return gates ? alpha * gates[place] : 1.f; }
};

// A block a group: its places in row order, by ballots over 256 candidates at a time.
__global__ void __launch_bounds__(THREADS, 1)
    list_places(const int64_t* chosen, int64_t rows, int64_t positions, int64_t experts, int64_t k, int32_t* list, int32_t* count) {
  __shared__ int before[THREADS / 32];
  const int64_t group = blockIdx.x, t = group / experts, e = group % experts;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  int total = 0;
  for (int64_t start = 0; start < rows * k; start += THREADS) {
    const int64_t member = start + threadIdx.x;
    bool mine = false;
    if (member < rows * k) {
      const int64_t id = chosen[(member / k * positions + t) * k + member % k];
      if (id < 0 || id >= experts) __trap();
      mine = id == e;
    }
    const unsigned votes = __ballot_sync(0xffffffffu, mine);
    if (lane == 0) before[warp] = __popc(votes);
    __syncthreads();
    int at = total;
    for (int w = 0; w < THREADS / 32; ++w) {
      if (w < warp) at += before[w];
      total += before[w];
    }
    if (mine) list[group * rows * k + at + __popc(votes & ((1u << lane) - 1))] = static_cast<int32_t>(member);
    __syncthreads();
  }
  if (threadIdx.x == 0) count[group] = total;
}

template <class T>
struct Layer {
  Tokens<T> x;
  Weights<T> gate, up, down;
  Groups groups;
  int64_t width, hidden;
};

// Block (x, y, z): 64 members, 64 columns, group. Gate and up in turn, then the activation by place.
template <class T>
__global__ void __launch_bounds__(THREADS, 1) hidden_layer(Layer<T> l, T* out) {
  __shared__ TileMemory<T> m;
  const int experts = static_cast<int>(l.groups.experts);
  const int64_t group = blockIdx.z, t = static_cast<int>(blockIdx.z) / experts, e = static_cast<int>(blockIdx.z) % experts;
  const int64_t first = int64_t{blockIdx.x} * TILE, col = int64_t{blockIdx.y} * TILE, size = l.groups.size(group);
  if (first >= size) return;
  const auto row = [&](int i, int64_t d) {
    return first + i < size ? l.x(l.groups.row(group, first + i), t, d) : from_float<T>(0.f);
  };
  const auto weight = [&](const Weights<T>& w) {
    return [&w, &l, t, e, col](int64_t d, int j) { return col + j < l.hidden ? w(t, e, d, col + j) : from_float<T>(0.f); };
  };
  tile_product<Fast::step, Fast::other>(l.width, row, weight(l.gate), m);
  float gates[TILE * TILE / THREADS];
  for (int n = 0; n < TILE * TILE / THREADS; ++n) {
    const int at = n * THREADS + static_cast<int>(threadIdx.x);
    gates[n] = m.out[at / TILE][at % TILE];
  }
  __syncthreads();
  tile_product<Fast::step, Fast::other>(l.width, row, weight(l.up), m);
  for (int n = 0; n < TILE * TILE / THREADS; ++n) {
    const int at = n * THREADS + static_cast<int>(threadIdx.x), i = at / TILE, j = at % TILE;
    if (first + i < size && col + j < l.hidden)
      out[l.groups.place(group, first + i) * l.hidden + col + j] =
          from_float<T>(gates[n] * sigmoid(gates[n]) * m.out[i][j]);
  }
}

template <class T>
__global__ void __launch_bounds__(THREADS, 1) output_layer(Layer<T> l, const T* active, float* out) {
  __shared__ TileMemory<T> m;
  const int experts = static_cast<int>(l.groups.experts);
  const int64_t group = blockIdx.z, t = static_cast<int>(blockIdx.z) / experts, e = static_cast<int>(blockIdx.z) % experts;
  const int64_t first = int64_t{blockIdx.x} * TILE, col = int64_t{blockIdx.y} * TILE, size = l.groups.size(group);
  if (first >= size) return;
  tile_product<Fast::step, Fast::other>(
      l.hidden,
      [&](int i, int64_t f) {
        return first + i < size ? active[l.groups.place(group, first + i) * l.hidden + f] : from_float<T>(0.f);
      },
      [&](int64_t f, int j) { return col + j < l.width ? l.down(t, e, f, col + j) : from_float<T>(0.f); }, m);
  tile_each([&](int i, int j) {
    if (first + i < size && col + j < l.width) {
      const int64_t place = l.groups.place(group, first + i);
      out[place * l.width + col + j] = l.groups.scale(place) * m.out[i][j];
    }
  });
}

// [B * T, D]: the shared part, then the k places in order.
template <class T>
__global__ void __launch_bounds__(THREADS, 1)
    add_places(const float* shared, const float* places, int64_t count, int64_t width, int64_t k, T* out) {
  const int64_t i = int64_t{blockIdx.x} * THREADS + threadIdx.x;
  if (i >= count * width) return;
  float sum = shared ? shared[i] : 0.f;
  for (int64_t j = 0; j < k; ++j) sum += places[(i / width * k + j) * width + i % width];
  out[i] = from_float<T>(sum);
}

// By place: scale * activation, and the gradients of both products before it. change of a scale: one partial sum
// a column block, added up in order afterwards.
template <class T>
__global__ void __launch_bounds__(THREADS, 1)
    hidden_gradient(Layer<T> l, Tokens<T> grad, T* active, T* of_gate, T* of_up, float* scale_parts) {
  __shared__ TileMemory<T> m;
  const int experts = static_cast<int>(l.groups.experts);
  const int64_t group = blockIdx.z, t = static_cast<int>(blockIdx.z) / experts, e = static_cast<int>(blockIdx.z) % experts;
  const int64_t first = int64_t{blockIdx.x} * TILE, col = int64_t{blockIdx.y} * TILE, size = l.groups.size(group);
  if (first >= size) return;
  constexpr int OWN = TILE * TILE / THREADS;
  float z[OWN], u[OWN];
  const auto row = [&](int i, int64_t d) {
    return first + i < size ? l.x(l.groups.row(group, first + i), t, d) : from_float<T>(0.f);
  };
  const auto weight = [&](const Weights<T>& w) {
    return [&w, &l, t, e, col](int64_t d, int j) { return col + j < l.hidden ? w(t, e, d, col + j) : from_float<T>(0.f); };
  };
  const auto take = [&](float* to) {
    for (int n = 0; n < OWN; ++n) {
      const int at = n * THREADS + static_cast<int>(threadIdx.x);
      to[n] = m.out[at / TILE][at % TILE];
    }
    __syncthreads();
  };
  tile_product<Fast::step, Fast::other>(l.width, row, weight(l.gate), m);
  take(z);
  tile_product<Fast::step, Fast::other>(l.width, row, weight(l.up), m);
  take(u);
  tile_product<Fast::step, Fast::step>(
      l.width,
      [&](int i, int64_t d) {
        return first + i < size ? grad(l.groups.row(group, first + i), t, d) : from_float<T>(0.f);
      },
      [&](int64_t d, int j) { return col + j < l.hidden ? l.down(t, e, col + j, d) : from_float<T>(0.f); }, m);
  for (int n = 0; n < OWN; ++n) {
    const int at = n * THREADS + static_cast<int>(threadIdx.x), i = at / TILE, j = at % TILE;
    if (first + i >= size) continue;
    const float back = m.out[i][j], open = sigmoid(z[n]), swish = z[n] * open, value = swish * u[n];
    m.out[i][j] = col + j < l.hidden ? value * back : 0.f;
    if (col + j >= l.hidden) continue;
    const int64_t place = l.groups.place(group, first + i), to = place * l.hidden + col + j;
    const float scale = l.groups.scale(place);
    active[to] = from_float<T>(scale * value);
    of_gate[to] = from_float<T>(scale * back * u[n] * (open + swish * (1.f - open)));
    of_up[to] = from_float<T>(scale * back * swish);
  }
  __syncthreads();
  if (scale_parts && threadIdx.x < TILE && first + threadIdx.x < size) {
    float sum = 0.f;
    for (int j = 0; j < TILE; ++j) sum += m.out[threadIdx.x][j];
    scale_parts[l.groups.place(group, first + threadIdx.x) * gridDim.y + blockIdx.y] = l.groups.alpha * sum;
  }
}

__global__ void __launch_bounds__(THREADS, 1) add_parts(const float* parts, int64_t count, int64_t number, float* out) {
  const int64_t i = int64_t{blockIdx.x} * THREADS + threadIdx.x;
  if (i >= count) return;
  float sum = 0.f;
  for (int64_t p = 0; p < number; ++p) sum += parts[i * number + p];
  out[i] = sum;
}

// By place: the gradient of the row, gate and up together.
template <class T>
__global__ void __launch_bounds__(THREADS, 1) row_gradient(Layer<T> l, const T* of_gate, const T* of_up, float* out) {
  __shared__ TileMemory<T> m;
  const int experts = static_cast<int>(l.groups.experts);
  const int64_t group = blockIdx.z, t = static_cast<int>(blockIdx.z) / experts, e = static_cast<int>(blockIdx.z) % experts;
  const int64_t first = int64_t{blockIdx.x} * TILE, col = int64_t{blockIdx.y} * TILE, size = l.groups.size(group);
  if (first >= size) return;
  Accumulator<T> acc;
  acc.clear();
  const auto add = [&](const T* change, const Weights<T>& w) {
    tile_accumulate<Fast::step, Fast::step>(
        l.hidden,
        [&](int i, int64_t f) {
          return first + i < size ? change[l.groups.place(group, first + i) * l.hidden + f] : from_float<T>(0.f);
        },
        [&](int64_t f, int j) { return col + j < l.width ? w(t, e, col + j, f) : from_float<T>(0.f); }, m, acc);
  };
  add(of_gate, l.gate);
  add(of_up, l.up);
  acc.store(m);
  __syncthreads();
  tile_each([&](int i, int j) {
    if (first + i < size && col + j < l.width) out[l.groups.place(group, first + i) * l.width + col + j] = m.out[i][j];
  });
}

// A weight's gradient: rows are the inner dimension. left: rows of tokens; right: a value by place. Written as
// [T, E, width, hidden], or across where `across` ([T, E, hidden, width]).
template <class T>
__global__ void __launch_bounds__(THREADS, 1)
    weight_gradient(Groups g, Tokens<T> left, const T* right, int64_t width, int64_t hidden, bool across, T* out) {
  __shared__ TileMemory<T> m;
  const int64_t group = blockIdx.z, t = static_cast<int>(blockIdx.z) / static_cast<int>(g.experts), size = g.size(group);
  const int64_t first = int64_t{blockIdx.x} * TILE, col = int64_t{blockIdx.y} * TILE;
  tile_product<Fast::other, Fast::other>(
      size, [&](int i, int64_t r) { return first + i < width ? left(g.row(group, r), t, first + i) : from_float<T>(0.f); },
      [&](int64_t r, int j) { return col + j < hidden ? right[g.place(group, r) * hidden + col + j] : from_float<T>(0.f); }, m);
  tile_each([&](int i, int j) {
    const int64_t d = first + i, f = col + j;
    if (d < width && f < hidden) out[group * width * hidden + (across ? f * width + d : d * hidden + f)] = from_float<T>(m.out[i][j]);
  });
}

void check_bank(const char* op, const char* prefix, const Tensor& x, const Tensor& gate, const Tensor& up, const Tensor& down) {
  const std::string kind = prefix;
  for (const auto& [part, w] : {std::pair<const char*, const Tensor&>{"gate", gate}, {"up", up}, {"down", down}}) {
    const std::string name = kind + part;
    check_dim(op, name.c_str(), w, 4);
    check_device(op, name.c_str(), w, x);
    RECENGINE_CHECK(w.scalar_type() == x.scalar_type(), op, ": ", name, " must have the dtype of x on CUDA, found ",
                    dtype_name(w), ", expected ", dtype_name(x));
    check_size(op, name.c_str(), w, 0, x.size(1));
    check_size(op, name.c_str(), w, 1, gate.size(1));
    check_size(op, name.c_str(), w, part[0] == 'd' ? 3 : 2, x.size(2));
    check_size(op, name.c_str(), w, part[0] == 'd' ? 2 : 3, gate.size(3));
  }
}

// A checked bank with its lists.
struct Bank {
  const Tensor &gate, &up, &down;
  Tensor list, count, gates;
  Groups groups;

  Bank(const char* op, const char* prefix, const Tensor& x, const Tensor& gate_, const Tensor& up_, const Tensor& down_,
       const std::optional<Tensor>& experts, const std::optional<Tensor>& gates_, double alpha)
      : gate(gate_), up(up_), down(down_) {
    check_bank(op, prefix, x, gate, up, down);
    RECENGINE_CHECK(experts.has_value() == gates_.has_value(), op, ": experts and gates come together or not at all");
    RECENGINE_CHECK(experts || gate.size(1) == 1, op, ": ", prefix, "gate has ", gate.size(1),
                    " experts a position, expected one where no experts are chosen");
    groups = {nullptr, nullptr, nullptr, static_cast<float>(alpha), x.size(0), x.size(1), gate.size(1), 1};
    if (!experts) return;
    check_dim(op, "experts", *experts, 3);
    check_dim(op, "gates", *gates_, 3);
    for (int64_t axis : {0, 1}) check_size(op, "experts", *experts, axis, x.size(axis));
    for (int64_t axis : {0, 1, 2}) check_size(op, "gates", *gates_, axis, experts->size(axis));
    check_dtype(op, "experts", *experts, ScalarType::Long, "int64");
    check_dtype(op, "gates", *gates_, ScalarType::Float, "float32");
    check_device(op, "experts", *experts, x);
    check_device(op, "gates", *gates_, x);
    RECENGINE_CHECK(x.size(0) * experts->size(2) < INT32_MAX, op, ": too many rows, expected fewer than 2^31 places a position");
    const Tensor chosen = torch::stable::contiguous(*experts);
    gates = torch::stable::contiguous(*gates_);
    groups.k = experts->size(2);
    const int64_t number = x.size(1) * gate.size(1);
    list = new_empty(x, {number, x.size(0) * groups.k}, ScalarType::Int);
    count = new_zeros(x, {number}, ScalarType::Int);
    if (number > 0 && x.size(0) > 0)
      list_places<<<static_cast<unsigned>(number), THREADS, 0, current_stream(x)>>>(
          data<int64_t>(chosen), x.size(0), x.size(1), gate.size(1), groups.k, mutable_data<int32_t>(list),
          mutable_data<int32_t>(count));
    groups.list = data<int32_t>(list), groups.count = data<int32_t>(count), groups.gates = data<float>(gates);
  }
  template <class T>
  Layer<T> layer(const Tensor& x) const {
    return {tokens<T>(x), weights<T>(gate), weights<T>(up), weights<T>(down), groups, x.size(2), gate.size(3)};
  }
  int64_t hidden() const { return gate.size(3); }
  int64_t places() const { return groups.rows * groups.positions * groups.k; }
  // Blocks for every member that a group could have, `columns` wide.
  dim3 grid(int64_t columns) const {
    return {blocks(groups.rows * groups.k, TILE), blocks(columns, TILE), static_cast<unsigned>(groups.positions * groups.experts)};
  }
};

void check_groups(const char* op, const Bank& b) {
  RECENGINE_CHECK(b.groups.positions * b.groups.experts <= 65535, op, ": ", b.groups.positions, " positions of ",
                  b.groups.experts, " experts are more than the 65535 groups that a launch takes");
}

template <class T>
Tensor outputs(const Bank& b, const Tensor& x) {
  Tensor active = new_empty(x, {b.places(), b.hidden()}), out = new_empty(x, {b.places(), x.size(2)}, ScalarType::Float);
  const cudaStream_t stream = current_stream(x);
  const auto l = b.layer<T>(x);
  if (b.hidden() == 0) {
    torch::stable::zero_(out);
    return out;
  }
  hidden_layer<T><<<b.grid(b.hidden()), THREADS, 0, stream>>>(l, mutable_data<T>(active));
  output_layer<T><<<b.grid(x.size(2)), THREADS, 0, stream>>>(l, data<T>(active), mutable_data<float>(out));
  return out;
}

Tensor grouped_swiglu(const Tensor& x, const Tensor& gate, const Tensor& up, const Tensor& down,
                      const std::optional<Tensor>& experts, const std::optional<Tensor>& gates,
                      const std::optional<Tensor>& shared_gate, const std::optional<Tensor>& shared_up,
                      const std::optional<Tensor>& shared_down, double alpha, const std::optional<Tensor>& packed,
                      const std::optional<Tensor>& shared_packed) {
  const char* op = "grouped_swiglu";
  check_dim(op, "x", x, 3);
  RECENGINE_CHECK(!packed && !shared_packed, op, ": packed weights are for the CPU");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Bank routed(op, "", x, gate, up, down, experts, gates, alpha);
  Tensor y = new_empty(x, {x.size(0), x.size(1), x.size(2)});
  if (y.numel() == 0) return y;
  check_groups(op, routed);
  by_dtype(op, "x", x, [&]<class T>(T) {
    std::optional<Tensor> own;
    if (shared_gate) {
      const std::optional<Tensor> none;
      own = outputs<T>(Bank(op, "shared_", x, *shared_gate, *shared_up, *shared_down, none, none, 1.0), x);
    }
    const Tensor places = outputs<T>(routed, x);
    add_places<T><<<blocks(y.numel(), THREADS), THREADS, 0, current_stream(x)>>>(
        own ? data<float>(*own) : nullptr, data<float>(places), x.size(0) * x.size(1), x.size(2), routed.groups.k, mutable_data<T>(y));
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

struct Gradients {
  Tensor gate, up, down, gates, rows;  // rows: by place
};

template <class T>
Gradients gradients(const Bank& b, const Tensor& x, const Tensor& grad) {
  const int64_t t = x.size(1), e = b.gate.size(1), d = x.size(2), f = b.hidden();
  Gradients g{new_zeros(x, {t, e, d, f}), new_zeros(x, {t, e, d, f}), new_zeros(x, {t, e, f, d}),
              new_zeros(x, {b.groups.gates ? x.size(0) : 0, t, b.groups.gates ? b.groups.k : 0}, ScalarType::Float),
              new_empty(x, {b.places(), d}, ScalarType::Float)};
  if (f == 0) torch::stable::zero_(g.rows);  // no hidden unit, no gradient
  if (x.numel() == 0 || f == 0) return g;
  const cudaStream_t stream = current_stream(x);
  Tensor active = new_empty(x, {b.places(), f}), of_gate = new_empty(x, {b.places(), f}), of_up = new_empty(x, {b.places(), f});
  const int64_t number = (f + TILE - 1) / TILE;
  Tensor parts = new_empty(x, {b.groups.gates ? b.places() * number : 0}, ScalarType::Float);
  const auto l = b.layer<T>(x);
  hidden_gradient<T><<<b.grid(f), THREADS, 0, stream>>>(l, tokens<T>(grad), mutable_data<T>(active), mutable_data<T>(of_gate),
                                                        mutable_data<T>(of_up),
                                                        b.groups.gates ? mutable_data<float>(parts) : nullptr);
  if (b.groups.gates)
    add_parts<<<blocks(b.places(), THREADS), THREADS, 0, stream>>>(data<float>(parts), b.places(), number, mutable_data<float>(g.gates));
  row_gradient<T><<<b.grid(d), THREADS, 0, stream>>>(l, data<T>(of_gate), data<T>(of_up), mutable_data<float>(g.rows));
  const dim3 grid(blocks(d, TILE), blocks(f, TILE), static_cast<unsigned>(t * e));
  weight_gradient<T><<<grid, THREADS, 0, stream>>>(b.groups, tokens<T>(x), data<T>(of_gate), d, f, false, mutable_data<T>(g.gate));
  weight_gradient<T><<<grid, THREADS, 0, stream>>>(b.groups, tokens<T>(x), data<T>(of_up), d, f, false, mutable_data<T>(g.up));
  weight_gradient<T><<<grid, THREADS, 0, stream>>>(b.groups, tokens<T>(grad), data<T>(active), d, f, true, mutable_data<T>(g.down));
  return g;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> grouped_swiglu_backward(
    const Tensor& grad, const Tensor& x, const Tensor& gate, const Tensor& up, const Tensor& down,
    const std::optional<Tensor>& experts, const std::optional<Tensor>& gates, const std::optional<Tensor>& shared_gate,
    const std::optional<Tensor>& shared_up, const std::optional<Tensor>& shared_down, double alpha) {
  const char* op = "grouped_swiglu_backward";
  check_dim(op, "x", x, 3);
  check_dim(op, "grad", grad, 3);
  for (int64_t axis : {0, 1, 2}) check_size(op, "grad", grad, axis, x.size(axis));
  check_device(op, "grad", grad, x);
  RECENGINE_CHECK(grad.scalar_type() == x.scalar_type(), op, ": grad must have the dtype of x, found ", dtype_name(grad),
                  ", expected ", dtype_name(x));
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Bank routed(op, "", x, gate, up, down, experts, gates, alpha);
  check_groups(op, routed);
  Tensor of_x = new_empty(x, {x.size(0), x.size(1), x.size(2)});
  const auto none = [&] { return new_empty(x, {0}, ScalarType::Float); };  // outputs share no memory
  std::optional<Gradients> own, shared;
  by_dtype(op, "x", x, [&]<class T>(T) {
    if (shared_gate) {
      const std::optional<Tensor> nothing;
      shared = gradients<T>(Bank(op, "shared_", x, *shared_gate, *shared_up, *shared_down, nothing, nothing, 1.0), x, grad);
    }
    own = gradients<T>(routed, x, grad);
    if (of_x.numel() > 0)
      add_places<T><<<blocks(of_x.numel(), THREADS), THREADS, 0, current_stream(x)>>>(
          shared ? data<float>(shared->rows) : nullptr, data<float>(own->rows), x.size(0) * x.size(1), x.size(2),
          routed.groups.k, mutable_data<T>(of_x));
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {of_x,
          own->gate,
          own->up,
          own->down,
          own->gates,
          shared ? shared->gate : none(),
          shared ? shared->up : none(),
          shared ? shared->down : none()};
}

}  // namespace
}  // namespace recengine::cuda

STABLE_TORCH_LIBRARY_IMPL(recengine, CUDA, m) {
  m.impl("moe_route", TORCH_BOX(&recengine::cuda::moe_route));
  m.impl("moe_route_backward", TORCH_BOX(&recengine::cuda::moe_route_backward));
  m.impl("grouped_swiglu", TORCH_BOX(&recengine::cuda::grouped_swiglu));
  m.impl("grouped_swiglu_backward", TORCH_BOX(&recengine::cuda::grouped_swiglu_backward));
}
