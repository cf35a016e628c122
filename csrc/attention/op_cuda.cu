// Cosine linear attention on a GPU: one block a (sequence, head), tiles of 32 rows in shared memory, float32
// throughout, every sum in a fixed order. Values of lengths and cu_seqlens are not read back: they are clamped
// to the tensor. Not yet run on a GPU.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>

#include "common/element.cuh"

namespace recengine::cuda {
namespace {

using Maybe = std::optional<Tensor>;
constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int ROWS = 32;  // of a tile
constexpr float EPS = 1e-12f;

enum class Scale : int { one, sqrt_d, length, sequence, key_prefix };

struct View {
  char* data = nullptr;
  int64_t sequence = 0, row = 0, part = 0, head = 0, elem = 0;
};

struct Call {
  View qkv, out, grad, dqkv;
  const bool* mask;
  int64_t mask_row, mask_step;
  const int64_t* lengths;
  int64_t length_step;
  const int64_t* offsets;
  const float* m;
  int64_t m_step;
  float* state;     // [sequences, heads, padded, padded]
  float* weighted;  // [sequences, heads]
  int64_t positions, heads, d, padded;
  Kind kind;
  Scale scale;
  bool causal, elu;
};

// What one block knows of its head.
struct Head {
  int64_t b, h, start, n;
  float power, constant, logarithm;  // sigmoid(m); the scale that does not move; ln of the valid positions
  bool moving;
};

struct Rows {
  float inverse[ROWS], query[ROWS], key[ROWS], log_count[ROWS];
  int valid[ROWS];
};

__device__ bool is_valid(const Call& c, const Head& a, int64_t s) {
  if (s >= a.n) return false;
  if (c.mask) return c.mask[a.b * c.mask_row + s * c.mask_step];
  if (c.lengths) return s < c.lengths[a.b * c.length_step];
  return true;
}

__device__ const char* base(const Call& c, const View& v, const Head& a, int64_t part) {
  const int64_t size = c.kind == Kind::f32 ? 4 : 2;
  return v.data + (a.b * v.sequence + a.start * v.row + part * v.part + a.h * v.head) * size;
}

__device__ int count_valid(const Call& c, const Head& a) {
  __shared__ int parts[WARPS];
  int count = 0;
  for (int64_t s = threadIdx.x; s < a.n; s += THREADS) count += is_valid(c, a, s);
  count = __reduce_add_sync(0xffffffffu, static_cast<unsigned>(count));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = count;
  __syncthreads();
  count = 0;
  for (int w = 0; w < WARPS; ++w) count += parts[w];
  __syncthreads();
  return count;
}

__device__ Head open_head(const Call& c, int& total) {
  Head a{};
  const unsigned heads = static_cast<unsigned>(c.heads);  // 64-bit divisions are calls
  a.b = blockIdx.x / heads;
  a.h = blockIdx.x % heads;
  a.n = c.positions;
  if (c.offsets) {
    const int64_t last = c.positions;
    a.start = min(max(c.offsets[a.b], int64_t{0}), last);
    a.n = min(max(c.offsets[a.b + 1], a.start), last) - a.start;
  }
  total = count_valid(c, a);
  a.constant = c.scale == Scale::sqrt_d ? rsqrtf(static_cast<float>(c.d)) : 1.f;
  a.logarithm = 1.f;
  a.moving = c.scale == Scale::key_prefix || (c.causal && c.scale == Scale::length);
  if (c.m) {
    a.power = 1.f / (1.f + expf(-c.m[a.h * c.m_step]));
    a.logarithm = logf(static_cast<float>(max(total, 1)));
    if (!a.moving) a.constant = expf(-a.power * a.logarithm);
  }
  return a;
}

// Validity and scales of rows [s, s + ROWS), of which `before` valid ones lie in front. Ends in a barrier.
__device__ void open_rows(const Call& c, const Head& a, int64_t s, int before, Rows& rows) {
  if (threadIdx.x < 32) {
    const int i = threadIdx.x;
    const bool valid = is_valid(c, a, s + i);
    const unsigned bits = __ballot_sync(0xffffffffu, valid);
    const float count = static_cast<float>(max(before + __popc(bits & (0xffffffffu >> (31 - i))), 1));
    const float moving = a.moving ? expf(-a.power * logf(count)) : a.constant;
    rows.valid[i] = valid;
    rows.query[i] = c.scale == Scale::key_prefix ? 1.f : moving;
    rows.key[i] = c.scale == Scale::key_prefix ? moving : 1.f;
    rows.log_count[i] = a.moving ? logf(count) : 1.f;
  }
  __syncthreads();
}
__device__ int valid_rows(const Rows& rows) {
  int count = 0;
  for (int i = 0; i < ROWS; ++i) count += rows.valid[i];
  return count;
}

// x[i][j] of rows [s, s + ROWS) (0 where there is none), after the activation if `direction`.
template <int DP>
__device__ void load(const Call& c, const View& v, const Head& a, int64_t part, int64_t s, const Rows& rows,
                     bool direction, float (*x)[DP + 1]) {
  const char* from = base(c, v, a, part);
  for (int i = threadIdx.x / 32; i < ROWS; i += WARPS)
    for (int j = threadIdx.x % 32; j < DP; j += 32) {
      float value = 0.f;
      if (rows.valid[i] && j < c.d) value = get(from, (s + i) * v.row + j * v.elem, c.kind);
      if (direction && c.elu && value < 0.f) value = expm1f(value);
      x[i][j] = value;
    }
}
template <int DP>
__device__ void write(const Call& c, const View& v, const Head& a, int64_t part, int64_t s, float (*x)[DP + 1]) {
  char* to = const_cast<char*>(base(c, v, a, part));
  for (int i = threadIdx.x / 32; i < ROWS && s + i < a.n; i += WARPS)
    for (int j = threadIdx.x % 32; j < c.d; j += 32) put(to, (s + i) * v.row + j * v.elem, c.kind, x[i][j]);
}

// 1 / max(length, EPS) of every row, by a warp each.
template <int DP>
__device__ void lengths(float (*x)[DP + 1], Rows& rows) {
  for (int i = threadIdx.x / 32; i < ROWS; i += WARPS) {
    float squares = 0;
    for (int j = threadIdx.x % 32; j < DP; j += 32) squares += x[i][j] * x[i][j];
    squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0) rows.inverse[i] = 1.f / fmaxf(sqrtf(squares), EPS);
  }
}

// x[i] *= factor(i)
template <int DP, class Factor>
__device__ void scale_rows(float (*x)[DP + 1], Factor factor) {
  for (int i = threadIdx.x / 32; i < ROWS; i += WARPS)
    for (int j = threadIdx.x % 32; j < DP; j += 32) x[i][j] *= factor(i);
}

// g[i] = dL/d(direction of x[i]) becomes dL/dx[i]; returns this warp's sum of weight(i) * direction . g.
template <int DP, class Weight>
__device__ float direction_backward(const Call& c, float (*x)[DP + 1], float (*g)[DP + 1], const Rows& rows,
                                    Weight weight) {
  float total = 0;
  for (int i = threadIdx.x / 32; i < ROWS; i += WARPS) {
    float dot = 0;
    for (int j = threadIdx.x % 32; j < DP; j += 32) dot += x[i][j] * g[i][j];
    const float inverse = rows.inverse[i];
    dot = warp_sum(dot) * inverse;
    total += dot * weight(i);
    const float along = inverse != 1.f / EPS ? dot * inverse : 0.f;
    for (int j = threadIdx.x % 32; j < DP; j += 32) {
      float d = (g[i][j] - x[i][j] * along) * inverse;
      if (c.elu && x[i][j] < 0.f) d *= x[i][j] + 1.f;
      g[i][j] = d;
    }
  }
  return total;
}

// to(i, j, sum_k a(i, k) b(k, j)) for i < M, j < N: 16 x 16 threads, each every 16th row and column.
template <int M, int N, int K, class A, class B, class To>
__device__ void product(A a, B b, To to) {
  constexpr int R = M / 16, C = N / 16;
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  float sum[R][C] = {};
#pragma unroll 4
  for (int k = 0; k < K; ++k) {
    float left[R], right[C];
#pragma unroll
    for (int r = 0; r < R; ++r) left[r] = a(y + 16 * r, k);
#pragma unroll
    for (int q = 0; q < C; ++q) right[q] = b(k, x + 16 * q);
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int q = 0; q < C; ++q) sum[r][q] += left[r] * right[q];
  }
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int q = 0; q < C; ++q) to(y + 16 * r, x + 16 * q, sum[r][q]);
}

template <int DP>
struct Tile {
  float x[ROWS][DP + 1];
};

template <int DP>
struct ForwardMemory {
  Rows rows;
  float state[DP][DP + 1];
  float a[ROWS][ROWS + 1];
  Tile<DP> q, k, v;
};

template <int DP>
__device__ void clear(float (*state)[DP + 1]) {
  for (int i = threadIdx.x; i < DP * (DP + 1); i += THREADS) state[i / (DP + 1)][i % (DP + 1)] = 0.f;
}

template <int DP>
__global__ void __launch_bounds__(THREADS) forward_kernel(Call c) {
  extern __shared__ float memory[];
  ForwardMemory<DP>& mem = *reinterpret_cast<ForwardMemory<DP>*>(memory);
  Rows& rows = mem.rows;
  auto &Q = mem.q.x, &K = mem.k.x, &V = mem.v.x;
  auto& S = mem.state;
  int total;
  const Head a = open_head(c, total);
  clear<DP>(S);
  __syncthreads();
  const auto open_keys = [&](int64_t s) {
    load<DP>(c, c.qkv, a, 1, s, rows, true, K);
    load<DP>(c, c.qkv, a, 2, s, rows, false, V);
    __syncthreads();
    lengths<DP>(K, rows);
    __syncthreads();
    scale_rows<DP>(K, [&](int i) { return rows.inverse[i] * rows.key[i]; });
    __syncthreads();
  };
  const auto open_queries = [&](int64_t s) {
    load<DP>(c, c.qkv, a, 0, s, rows, true, Q);
    __syncthreads();
    lengths<DP>(Q, rows);
    __syncthreads();
    scale_rows<DP>(Q, [&](int i) { return rows.inverse[i] * rows.query[i]; });
    __syncthreads();
  };
  const auto add_state = [&] {
    product<DP, DP, ROWS>([&](int i, int k) { return K[k][i]; }, [&](int k, int j) { return V[k][j]; },
                          [&](int i, int j, float x) { S[i][j] += x; });
    __syncthreads();
  };
  const auto from_state = [&](int64_t s) {  // V is free
    product<ROWS, DP, DP>([&](int i, int k) { return Q[i][k]; }, [&](int k, int j) { return S[k][j]; },
                          [&](int i, int j, float x) { V[i][j] = x; });
    __syncthreads();
    write<DP>(c, c.out, a, 0, s, V);
    __syncthreads();
  };
  int before = 0;
  if (!c.causal) {
    for (int64_t s = 0; s < a.n; s += ROWS) {
      open_rows(c, a, s, before, rows);
      open_keys(s);
      add_state();
    }
    if (c.state) {
      float* to = c.state + blockIdx.x * c.padded * c.padded;
      const int padded = static_cast<int>(c.padded);
      for (int i = threadIdx.x; i < padded * padded; i += THREADS) to[i] = S[i / padded][i % padded];
    }
    for (int64_t s = 0; s < a.n; s += ROWS) {
      open_rows(c, a, s, before, rows);
      open_queries(s);
      from_state(s);
    }
    return;
  }
  for (int64_t s = 0; s < a.n; s += ROWS) {
    open_rows(c, a, s, before, rows);
    before += valid_rows(rows);
    open_keys(s);
    open_queries(s);
    product<ROWS, ROWS, DP>([&](int i, int k) { return Q[i][k]; }, [&](int k, int j) { return K[j][k]; },
                            [&](int i, int j, float x) { mem.a[i][j] = j <= i ? x : 0.f; });
    __syncthreads();
    char* out = const_cast<char*>(base(c, c.out, a, 0));
    // O = Q S + A V: both sums in one thread's register, S first.
    product<ROWS, DP, DP + ROWS>([&](int i, int k) { return k < DP ? Q[i][k] : mem.a[i][k - DP]; },
                                 [&](int k, int j) { return k < DP ? S[k][j] : V[k - DP][j]; },
                                 [&](int i, int j, float x) {
                                   if (s + i < a.n && j < c.d) put(out, (s + i) * c.out.row + j * c.out.elem, c.kind, x);
                                 });
    __syncthreads();
    add_state();
  }
}

template <int DP>
struct BackwardMemory {
  Rows rows;  // of the keys or queries whose directions are differentiated
  float other[ROWS];
  float parts[WARPS];
  float state[DP][DP + 1];
  float a[ROWS][ROWS + 1];
  Tile<DP> q, k, v, g, x;
};

template <int DP>
__global__ void __launch_bounds__(THREADS) backward_kernel(Call c) {
  extern __shared__ float memory[];
  BackwardMemory<DP>& mem = *reinterpret_cast<BackwardMemory<DP>*>(memory);
  Rows& rows = mem.rows;
  auto &Q = mem.q.x, &K = mem.k.x, &V = mem.v.x, &G = mem.g.x, &X = mem.x.x;
  auto& S = mem.state;
  auto& A = mem.a;
  int total;
  const Head a = open_head(c, total);
  float weighted = 0;

  // Queries: S holds sum k (a v)^T; X = c (G S^T + tril(G (a V)^T) k) is dL/dq.
  if (c.causal) {
    clear<DP>(S);
  } else {
    const float* from = c.state + blockIdx.x * c.padded * c.padded;
    for (int i = threadIdx.x; i < DP * DP; i += THREADS) {
      const int r = i / DP, q = i % DP;
      S[r][q] = r < c.padded && q < c.padded ? from[r * c.padded + q] : 0.f;
    }
  }
  __syncthreads();
  int before = 0;
  for (int64_t s = 0; s < a.n; s += ROWS) {
    open_rows(c, a, s, before, rows);
    before += valid_rows(rows);
    load<DP>(c, c.qkv, a, 0, s, rows, true, Q);
    load<DP>(c, c.grad, a, 0, s, rows, false, G);
    if (c.causal) {
      load<DP>(c, c.qkv, a, 1, s, rows, true, K);
      load<DP>(c, c.qkv, a, 2, s, rows, false, V);
    }
    __syncthreads();
    if (c.causal) {
      lengths<DP>(K, rows);
      __syncthreads();
      scale_rows<DP>(K, [&](int i) { return rows.inverse[i] * rows.key[i]; });
      __syncthreads();
    }
    lengths<DP>(Q, rows);
    scale_rows<DP>(G, [&](int i) { return rows.query[i]; });
    __syncthreads();
    product<ROWS, DP, DP>([&](int i, int k) { return G[i][k]; }, [&](int k, int j) { return S[j][k]; },
                          [&](int i, int j, float x) { X[i][j] = x; });
    if (c.causal) {
      product<ROWS, ROWS, DP>([&](int i, int k) { return G[i][k]; }, [&](int k, int j) { return V[j][k]; },
                              [&](int i, int j, float x) { A[i][j] = j <= i ? x : 0.f; });
      __syncthreads();
      product<ROWS, DP, ROWS>([&](int i, int k) { return A[i][k]; }, [&](int k, int j) { return K[k][j]; },
                              [&](int i, int j, float x) { X[i][j] += x; });
      product<DP, DP, ROWS>([&](int i, int k) { return K[k][i]; }, [&](int k, int j) { return V[k][j]; },
                            [&](int i, int j, float x) { S[i][j] += x; });
    }
    __syncthreads();
    weighted += direction_backward<DP>(c, Q, X, rows,
                                       [&](int i) { return c.scale == Scale::key_prefix ? 0.f : rows.log_count[i]; });
    __syncthreads();
    write<DP>(c, c.dqkv, a, 0, s, X);
    __syncthreads();
  }

  // Keys, from the back: S holds sum q (c G)^T of the rows behind (all rows, where not causal).
  clear<DP>(S);
  __syncthreads();
  const auto add_queries = [&] {  // Q and G of this tile, G scaled already
    scale_rows<DP>(Q, [&](int i) { return mem.other[i]; });
    __syncthreads();
    product<DP, DP, ROWS>([&](int i, int k) { return Q[k][i]; }, [&](int k, int j) { return G[k][j]; },
                          [&](int i, int j, float x) { S[i][j] += x; });
    __syncthreads();
  };
  const auto open_queries = [&](int64_t s) {
    load<DP>(c, c.qkv, a, 0, s, rows, true, Q);
    load<DP>(c, c.grad, a, 0, s, rows, false, G);
    __syncthreads();
    lengths<DP>(Q, rows);
    scale_rows<DP>(G, [&](int i) { return rows.query[i]; });
    __syncthreads();
    if (threadIdx.x < ROWS) mem.other[threadIdx.x] = rows.inverse[threadIdx.x];
    __syncthreads();
  };
  if (!c.causal) {
    before = 0;
    for (int64_t s = 0; s < a.n; s += ROWS) {
      open_rows(c, a, s, before, rows);
      before += valid_rows(rows);
      open_queries(s);
      add_queries();
    }
  }
  int behind = total;
  const int64_t tiles = (a.n + ROWS - 1) / ROWS;
  for (int64_t t = tiles - 1; t >= 0; --t) {
    const int64_t s = t * ROWS;
    int here = 0;
    for (int i = 0; i < ROWS; ++i) here += is_valid(c, a, s + i);
    behind -= here;
    open_rows(c, a, s, behind, rows);
    if (c.causal) open_queries(s);
    load<DP>(c, c.qkv, a, 1, s, rows, true, K);
    load<DP>(c, c.qkv, a, 2, s, rows, false, V);
    __syncthreads();
    lengths<DP>(K, rows);
    scale_rows<DP>(V, [&](int i) { return rows.key[i]; });
    __syncthreads();
    // dL/dk = (a V) S^T + tril(G (a V)^T)^T q
    product<ROWS, DP, DP>([&](int i, int k) { return V[i][k]; }, [&](int k, int j) { return S[j][k]; },
                          [&](int i, int j, float x) { X[i][j] = x; });
    if (c.causal) {
      product<ROWS, ROWS, DP>([&](int i, int k) { return G[i][k]; }, [&](int k, int j) { return V[j][k]; },
                              [&](int i, int j, float x) { A[i][j] = j <= i ? x * mem.other[i] : 0.f; });
      __syncthreads();
      product<ROWS, DP, ROWS>([&](int i, int k) { return A[k][i]; }, [&](int k, int j) { return Q[k][j]; },
                              [&](int i, int j, float x) { X[i][j] += x; });
    }
    __syncthreads();
    weighted += direction_backward<DP>(c, K, X, rows,
                                       [&](int i) { return c.scale == Scale::key_prefix ? rows.log_count[i] : 0.f; });
    __syncthreads();
    write<DP>(c, c.dqkv, a, 1, s, X);
    scale_rows<DP>(K, [&](int i) { return rows.inverse[i]; });
    __syncthreads();
    // dL/dv = a (k S + tril(q k^T)^T G)
    product<ROWS, DP, DP>([&](int i, int k) { return K[i][k]; }, [&](int k, int j) { return S[k][j]; },
                          [&](int i, int j, float x) { X[i][j] = x * rows.key[i]; });
    if (c.causal) {
      product<ROWS, ROWS, DP>([&](int i, int k) { return Q[i][k]; }, [&](int k, int j) { return K[j][k]; },
                              [&](int i, int j, float x) { A[i][j] = j <= i ? x * mem.other[i] : 0.f; });
      __syncthreads();
      product<ROWS, DP, ROWS>([&](int i, int k) { return A[k][i]; }, [&](int k, int j) { return G[k][j]; },
                              [&](int i, int j, float x) { X[i][j] += x * rows.key[i]; });
    }
    __syncthreads();
    write<DP>(c, c.dqkv, a, 2, s, X);
    __syncthreads();
    if (c.causal) add_queries();
  }

  if (threadIdx.x % 32 == 0) mem.parts[threadIdx.x / 32] = weighted;
  __syncthreads();
  if (threadIdx.x == 0) {
    float sum = 0;
    for (int w = 0; w < WARPS; ++w) sum += mem.parts[w];
    c.weighted[blockIdx.x] = a.moving ? sum : sum * a.logarithm;
  }
}

__global__ void exponent_gradient_kernel(Call c, int64_t sequences, float* dm) {
  const int64_t h = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (h >= c.heads) return;
  double sum = 0;
  for (int64_t b = 0; b < sequences; ++b) sum += c.weighted[b * c.heads + h];
  const double s = 1.0 / (1.0 + exp(-static_cast<double>(c.m[h * c.m_step])));
  dm[h] = static_cast<float>(-s * (1.0 - s) * sum);
}

View view(const Tensor& x, bool varlen, bool packed) {
  const int64_t lead = varlen ? 1 : 2, behind = packed ? lead + 1 : lead;
  return {static_cast<char*>(const_cast<void*>(x.const_data_ptr())),
          varlen ? 0 : x.stride(0),
          x.stride(lead - 1),
          packed ? x.stride(lead) : 0,
          x.stride(behind),
          x.stride(behind + 1)};
}

Scale parse_scale(const char* op, const std::string& name, bool causal) {
  if (name == "one") return Scale::one;
  if (name == "sqrt_d") return Scale::sqrt_d;
  if (name == "length") return Scale::length;
  RECENGINE_CHECK(name == "sequence" || name == "key_prefix", op,
                  ": scale must be one, sqrt_d, length, sequence or key_prefix, found ", name);
  RECENGINE_CHECK(name == "sequence" || causal, op, ": scale key_prefix needs causal=True");
  return name == "sequence" ? Scale::sequence : Scale::key_prefix;
}

Call check(const char* op, const Tensor& qkv, const Maybe& mask, const Maybe& lengths, const Maybe& offsets,
           const Maybe& m, bool causal, const std::string& activation, const std::string& scale, int64_t& sequences) {
  Call c{};
  const bool varlen = offsets.has_value();
  const int64_t lead = varlen ? 1 : 2;
  RECENGINE_CHECK(activation == "none" || activation == "elu", op, ": activation must be none or elu, found ",
                  activation);
  check_dim(op, "qkv", qkv, lead + 3);
  check_size(op, "qkv", qkv, lead, 3);
  check_floating(op, "qkv", qkv);
  c.causal = causal, c.elu = activation == "elu", c.scale = parse_scale(op, scale, causal), c.kind = kind_of(qkv);
  sequences = varlen ? std::max<int64_t>(offsets->numel() - 1, 0) : qkv.size(0);
  c.positions = qkv.size(lead - 1), c.heads = qkv.size(lead + 1), c.d = qkv.size(lead + 2);
  c.padded = (c.d + 15) / 16 * 16;
  RECENGINE_CHECK(c.d >= 1 && c.d <= 128, op, ": qkv has heads of size ", c.d, ", expected 1 to 128");
  RECENGINE_CHECK(sequences * c.heads < (int64_t{1} << 31), op, ": qkv has 2^31 heads or more");
  RECENGINE_CHECK(int(mask.has_value()) + int(lengths.has_value()) + int(varlen) <= 1, op,
                  ": give at most one of mask, lengths and cu_seqlens");
  if (mask) {
    check_dim(op, "mask", *mask, 2);
    check_size(op, "mask", *mask, 0, sequences);
    check_size(op, "mask", *mask, 1, c.positions);
    check_dtype(op, "mask", *mask, ScalarType::Bool, "bool");
    check_same_device(op, "mask", *mask, qkv);
    c.mask = static_cast<const bool*>(mask->const_data_ptr());
    c.mask_row = mask->stride(0), c.mask_step = mask->stride(1);
  }
  if (lengths) {
    check_dim(op, "lengths", *lengths, 1);
    check_size(op, "lengths", *lengths, 0, sequences);
    check_dtype(op, "lengths", *lengths, ScalarType::Long, "int64");
    check_same_device(op, "lengths", *lengths, qkv);
    c.lengths = static_cast<const int64_t*>(lengths->const_data_ptr());
    c.length_step = lengths->stride(0);
  }
  if (varlen) {
    check_dim(op, "cu_seqlens", *offsets, 1);
    check_dtype(op, "cu_seqlens", *offsets, ScalarType::Long, "int64");
    RECENGINE_CHECK(offsets->numel() >= 1 && (offsets->numel() == 1 || offsets->stride(0) == 1), op,
                    ": cu_seqlens must be contiguous and have at least one element");
    check_same_device(op, "cu_seqlens", *offsets, qkv);
    c.offsets = static_cast<const int64_t*>(offsets->const_data_ptr());
  }
  const bool powered = c.scale != Scale::one && c.scale != Scale::sqrt_d;
  RECENGINE_CHECK(m.has_value() == powered, op, ": m must be ", powered ? "given" : "left out", " for scale ", scale);
  if (m) {
    check_dim(op, "m", *m, 1);
    check_size(op, "m", *m, 0, c.heads);
    check_dtype(op, "m", *m, ScalarType::Float, "float32");
    check_same_device(op, "m", *m, qkv);
    c.m = static_cast<const float*>(m->const_data_ptr());
    c.m_step = m->stride(0);
  }
  c.qkv = view(qkv, varlen, true);
  return c;
}

template <class Kernel>
void launch(Kernel kernel, size_t bytes, int64_t units, cudaStream_t stream, const Call& c) {
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  kernel<<<static_cast<unsigned>(units), THREADS, bytes, stream>>>(c);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}
void launch_forward(const Call& c, int64_t units, cudaStream_t stream) {
  if (c.d <= 16) return launch(forward_kernel<16>, sizeof(ForwardMemory<16>), units, stream, c);
  if (c.d <= 32) return launch(forward_kernel<32>, sizeof(ForwardMemory<32>), units, stream, c);
  if (c.d <= 64) return launch(forward_kernel<64>, sizeof(ForwardMemory<64>), units, stream, c);
  launch(forward_kernel<128>, sizeof(ForwardMemory<128>), units, stream, c);
}
void launch_backward(const Call& c, int64_t units, cudaStream_t stream) {
  if (c.d <= 16) return launch(backward_kernel<16>, sizeof(BackwardMemory<16>), units, stream, c);
  if (c.d <= 32) return launch(backward_kernel<32>, sizeof(BackwardMemory<32>), units, stream, c);
  if (c.d <= 64) return launch(backward_kernel<64>, sizeof(BackwardMemory<64>), units, stream, c);
  launch(backward_kernel<128>, sizeof(BackwardMemory<128>), units, stream, c);
}

std::tuple<Tensor, Tensor> forward(const Tensor& qkv, Maybe mask, Maybe lengths, Maybe offsets, Maybe m, bool causal,
                                   std::string activation, std::string scale, bool save_state) {
  int64_t sequences = 0;
  Call c = check("cosine_attention", qkv, mask, lengths, offsets, m, causal, activation, scale, sequences);
  const torch::stable::accelerator::DeviceGuard guard(qkv.get_device_index());
  const bool varlen = offsets.has_value();
  Tensor out = varlen ? torch::stable::new_empty(qkv, {c.positions, c.heads, c.d})
                      : torch::stable::new_empty(qkv, {sequences, c.positions, c.heads, c.d});
  save_state = save_state && !causal;
  Tensor state = save_state
                     ? torch::stable::new_empty(qkv, {sequences, c.heads, c.padded, c.padded}, ScalarType::Float)
                     : torch::stable::new_empty(qkv, {0}, ScalarType::Float);
  c.out = view(out, varlen, false);
  if (save_state) c.state = static_cast<float*>(state.mutable_data_ptr());
  if (sequences * c.heads > 0) launch_forward(c, sequences * c.heads, stream_of(qkv));
  return {out, state};
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& qkv, Maybe mask, Maybe lengths, Maybe offsets,
                                    Maybe m, const Tensor& state, bool causal, std::string activation,
                                    std::string scale) {
  const char* op = "cosine_attention_backward";
  int64_t sequences = 0;
  Call c = check(op, qkv, mask, lengths, offsets, m, causal, activation, scale, sequences);
  const bool varlen = offsets.has_value();
  const int64_t units = sequences * c.heads;
  check_dim(op, "grad", grad, varlen ? 3 : 4);
  check_dtype(op, "grad", grad, qkv.scalar_type(), "of qkv's dtype");
  check_same_device(op, "grad", grad, qkv);
  for (int64_t axis = 0; axis < grad.dim(); ++axis)
    check_size(op, "grad", grad, axis, qkv.size(axis < grad.dim() - 2 ? axis : axis + 1));
  RECENGINE_CHECK(causal || (state.numel() == units * c.padded * c.padded && state.is_contiguous()), op,
                  ": state must be what cosine_attention returned with save_state=True");
  const torch::stable::accelerator::DeviceGuard guard(qkv.get_device_index());
  Tensor dqkv = varlen ? torch::stable::new_empty(qkv, {c.positions, 3, c.heads, c.d})
                       : torch::stable::new_empty(qkv, {sequences, c.positions, 3, c.heads, c.d});
  Tensor dm = torch::stable::new_zeros(qkv, {m ? c.heads : 0}, ScalarType::Float);
  Tensor weighted = torch::stable::new_empty(qkv, {units}, ScalarType::Float);
  c.grad = view(grad, varlen, false);
  c.dqkv = view(dqkv, varlen, true);
  if (!causal) c.state = const_cast<float*>(static_cast<const float*>(state.const_data_ptr()));
  c.weighted = static_cast<float*>(weighted.mutable_data_ptr());
  if (units == 0) return {dqkv, dm};
  const cudaStream_t stream = stream_of(qkv);
  launch_backward(c, units, stream);
  if (m) {
    exponent_gradient_kernel<<<static_cast<unsigned>((c.heads + 63) / 64), 64, 0, stream>>>(
        c, sequences, static_cast<float*>(dm.mutable_data_ptr()));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {dqkv, dm};
}

}  // namespace
}  // namespace recengine::cuda

STABLE_TORCH_LIBRARY_IMPL(recengine, CUDA, lib) {
  lib.impl("cosine_attention", TORCH_BOX(&recengine::cuda::forward));
  lib.impl("cosine_attention_backward", TORCH_BOX(&recengine::cuda::backward));
}
