#include "attention/attention.h"
#include "common/cached_products.h"
#include "common/bf16.h"
#include "common/small_gemm.h"

namespace KERN_NS {

using recengine::ATTENTION_BLOCK;
using recengine::ATTENTION_MAX_D;
using recengine::AttentionHead;
using recengine::AttentionShare;
using recengine::padded16;

namespace {

constexpr float EPS = 1e-12f;  // the smallest length that is divided by, as in torch's normalize

struct Strided {
  const void* data;
  int64_t row, elem;
};
Strided queries(const AttentionHead& h) { return {h.q, h.q_row, h.q_elem}; }
Strided keys(const AttentionHead& h) { return {h.k, h.row, h.elem}; }
Strided values(const AttentionHead& h) { return {h.v, h.row, h.elem}; }
Strided gradients(const AttentionHead& h) { return {h.grad, h.grad_row, h.grad_elem}; }
Strided results(const void* out, int64_t row) { return {out, row, 1}; }

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

bool valid(const AttentionHead& h, int64_t s) { return !h.mask || h.mask[s * h.mask_step]; }

RE_INLINE vf elu(vf x) { return x > 0.f ? x : vexp(vmin(x, vf{})) - 1.f; }

template <class T, bool ELU>
void load_row(const T* src, int64_t elem, int64_t d, int64_t dp, float* dst, float* squares) {
  vf sum{};
  int64_t j = 0;
  if (elem == 1) {
    for (; j + W <= d; j += W) {
      vf x = load(src + j);
      if (ELU) x = elu(x);
      sum += x * x;
      store(dst + j, x);
    }
  }
  for (; j < dp; j += W) {
    float t[W] = {};
    for (int64_t i = j; i < d && i < j + W; ++i) t[i - j] = widen(src[i * elem]);
    vf x = load(t);
    if (ELU) x = elu(x);  // elu(0) = 0 keeps the padding
    sum += x * x;
    store(dst + j, x);
  }
  if (squares) *squares = hsum(sum);
}

// Rows [begin, begin + n) as floats [n, dp]; rows that the mask drops are zero whatever they hold.
template <class T, bool ELU>
void load_rows(const AttentionHead& h, Strided x, int64_t begin, int64_t n, float* tile, float* squares) {
  const int64_t dp = padded16(h.d);
  const T* src = static_cast<const T*>(x.data) + begin * x.row;
  for (int64_t i = 0; i < n; ++i, src += x.row, tile += dp) {
    if (valid(h, begin + i)) {
      load_row<T, ELU>(src, x.elem, h.d, dp, tile, squares ? squares + i : nullptr);
    } else {
      std::memset(tile, 0, sizeof(float) * static_cast<size_t>(dp));
      if (squares) squares[i] = 0.f;
    }
  }
}

void load_any(const AttentionHead& h, Strided x, int64_t begin, int64_t n, float* tile) {
  if (h.bf16)
    load_rows<bf16, false>(h, x, begin, n, tile, nullptr);
  else
    load_rows<float, false>(h, x, begin, n, tile, nullptr);
}

// The rows of q or k after the activation, and 1 / max(length, EPS) of each.
void load_directions(const AttentionHead& h, Strided x, int64_t begin, int64_t n, float* tile, float* inverse) {
  if (h.bf16)
    h.elu ? load_rows<bf16, true>(h, x, begin, n, tile, inverse) : load_rows<bf16, false>(h, x, begin, n, tile, inverse);
  else
    h.elu ? load_rows<float, true>(h, x, begin, n, tile, inverse) : load_rows<float, false>(h, x, begin, n, tile, inverse);
  for (int64_t i = 0; i < n; ++i) {
    const float length = __builtin_sqrtf(inverse[i]);
    inverse[i] = 1.f / (length > EPS ? length : EPS);
  }
}

void store_any(const AttentionHead& h, void* out, int64_t row, int64_t begin, int64_t n, const float* tile) {
  const int64_t dp = padded16(h.d);
  const auto write = [&](auto* dst) {
    for (int64_t i = 0; i < n; ++i, dst += row, tile += dp) {
      int64_t j = 0;
      for (; j + W <= h.d; j += W) store(dst + j, load(tile + j));
      if (j < h.d) store_tail(dst + j, load(tile + j), h.d - j);
    }
  };
  if (h.bf16)
    write(static_cast<bf16*>(out) + begin * row);
  else
    write(static_cast<float*>(out) + begin * row);
}

void zero_rows(const AttentionHead& h, void* out, int64_t row, int64_t begin, int64_t end) {
  const size_t size = h.bf16 ? 2 : 4;
  char* p = static_cast<char*>(out);
  for (int64_t s = begin; s < end; ++s)
    std::memset(p + static_cast<size_t>(s * row) * size, 0, static_cast<size_t>(h.d) * size);
}

void scale_rows(float* tile, int64_t n, int64_t dp, const float* factor) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < dp; j += W) store(tile + i * dp + j, load(tile + i * dp + j) * factor[i]);
}

int64_t count_valid(const AttentionHead& h, int64_t end) {
  if (!h.mask) return end;
  int64_t count = 0;
  if (h.mask_step == 1)
    for (int64_t s = 0; s < end; ++s) count += h.mask[s] != 0;
  else
    for (int64_t s = 0; s < end; ++s) count += h.mask[s * h.mask_step] != 0;
  return count;
}

// Scales of the rows of a block: of the query and of the key, and the logarithm of the count.
struct Scales {
  float query[ATTENTION_MAX_D], key[ATTENTION_MAX_D], log_count[ATTENTION_MAX_D];
};
void row_scales(const AttentionHead& h, int64_t begin, int64_t n, int64_t count, Scales& s) {
  for (int64_t i = 0; i < n; ++i) {
    count += valid(h, begin + i);
    s.query[i] = h.by_count && !h.on_key ? h.by_count[count] : h.scale;
    s.key[i] = h.by_count && h.on_key ? h.by_count[count] : 1.f;
    s.log_count[i] = h.log_count ? h.log_count[count] : 1.f;
  }
}

// Gradient of x / |x| (and of the activation): g is dL/d(direction) and becomes dL/dx.
// direction = tile * turn; returns direction . g.
float direction_backward(const AttentionHead& h, const float* tile, float turn, float inverse, float* g, int64_t dp) {
  vf sum{};
  for (int64_t j = 0; j < dp; j += W) sum += load(tile + j) * load(g + j);
  const float dot = hsum(sum) * turn;
  const float along = inverse != 1.f / EPS ? dot * turn : 0.f;  // below EPS the length is a constant
  for (int64_t j = 0; j < dp; j += W) store(g + j, (load(g + j) - load(tile + j) * along) * inverse);
  if (h.elu)  // elu'(x) = 1 above zero, else exp(x) = elu(x) + 1; `tile` is the direction times 1 / turn
    for (int64_t j = 0; j < dp; j += W) {
      const vf a = load(tile + j) * (turn / inverse);
      store(g + j, load(g + j) * (a > 0.f ? splat(1.f) : a + 1.f));
    }
  return dot;
}

// Rows of dp floats: in the tensor itself where they lie so, else in a buffer.
struct Rows {
  const float* at;
  int64_t ld;
};

Rows rows(const AttentionHead& h, Strided x, int64_t begin, int64_t n, float* buffer) {
  const int64_t dp = padded16(h.d);
  if (!h.bf16 && x.elem == 1 && h.d == dp && !h.mask) return {static_cast<const float*>(x.data) + begin * x.row, x.row};
  load_any(h, x, begin, n, buffer);
  return {buffer, dp};
}

// 1 / max(length, EPS) of n rows: W at a time, whose sums of squares are added across in one go.
void inverse_lengths(Rows x, int64_t n, int64_t dp, float* inverse) {
  for (int64_t s = 0; s < n; s += W) {
    vf squares[W];
    for (int64_t i = 0; i < W; ++i) {
      const float* row = x.at + smaller(s + i, n - 1) * x.ld;
      vf sum{};
      for (int64_t j = 0; j < dp; j += W) sum += load(row + j) * load(row + j);
      squares[i] = sum;
    }
    store(inverse + s, 1.f / vmax(vsqrt(sum_each(squares)), splat(EPS)));
  }
}

// Rows of q or k after the activation, and 1 / max(length, EPS) of each; zeros behind, up to a multiple of W.
Rows directions(const AttentionHead& h, Strided x, int64_t begin, int64_t n, float* buffer, float* inverse) {
  const int64_t dp = padded16(h.d);
  Rows found{buffer, dp};
  if (h.elu) {
    load_directions(h, x, begin, n, buffer, inverse);
  } else {
    found = rows(h, x, begin, n, buffer);
    inverse_lengths(found, n, dp, inverse);
  }
  for (int64_t i = n; i % W; ++i) inverse[i] = 0.f;
  return found;
}

// Asks for the block of rows from `begin` on, as far as there are any.
void soon(const AttentionHead& h, Strided x, int64_t begin, int64_t end, Ahead& ahead) {
  if (!x.data || x.elem != 1) return;
  const int64_t size = h.bf16 ? 2 : 4;
  ahead.add(static_cast<const char*>(x.data) + begin * x.row * size, smaller(ATTENTION_BLOCK, end - begin),
            x.row * size, h.d * size);
}
// The next sequence's rows, in the order in which they lie: part i of n.
void soon_next(const AttentionShare& x, int64_t i, int64_t n, Ahead& ahead) {
  const int64_t from = x.rows * i / n;
  ahead.add(x.at + from * x.stride, x.rows * (i + 1) / n - from, x.stride, x.bytes);
}
// Part `phase` of a block's `phases`, where the head has blocks enough for all.
void soon_next(const AttentionHead& h, int64_t begin, int64_t phase, int64_t phases, Ahead& ahead) {
  const int64_t blocks = (h.n + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK * phases;
  const int64_t part = begin / ATTENTION_BLOCK * phases + phase;
  const AttentionShare* const shares[] = {&h.next_in, &h.next_out, &h.next_grad};
  for (const AttentionShare* x : shares)
    if (x->rows) soon_next(*x, part, blocks, ahead);
}

void scaled(Rows x, int64_t n, int64_t dp, const float* factor, float* to) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < dp; j += W) store(to + i * dp + j, load(x.at + i * x.ld + j) * factor[i]);
}

// Where rows of a result are made: in the result itself, or in a buffer that finish() writes out.
struct Place {
  float* at;
  int64_t ld;
  bool direct;
};

Place place(const AttentionHead& h, void* out, int64_t row, int64_t begin, float* buffer) {
  const int64_t dp = padded16(h.d);
  if (!h.bf16 && h.d == dp) return {static_cast<float*>(out) + begin * row, row, true};
  return {buffer, dp, false};
}

void finish(const AttentionHead& h, const Place& p, void* out, int64_t row, int64_t begin, int64_t n) {
  if (!p.direct) store_any(h, out, row, begin, n, p.at);
}

// Gradient of x / |x| (and of the activation) for n rows: g [n, dp] is dL/d(direction), `to` gets dL/dx (and may
// be g itself). Returns the sum of direction . g.
double directions_backward(const AttentionHead& h, Rows x, const float* inverse, int64_t n, const float* g,
                           const Place& to) {
  const int64_t dp = padded16(h.d);
  double sum = 0;
  for (int64_t s = 0; s < n; s += W) {
    const int64_t count = smaller(W, n - s);
    const float *row = x.at + s * x.ld, *up = g + s * dp;
    vf dots[W];
    for (int64_t i = 0; i < W; ++i) {
      const int64_t r = smaller(i, count - 1);
      vf dot{};
      for (int64_t j = 0; j < dp; j += W) dot += load(row + r * x.ld + j) * load(up + r * dp + j);
      dots[i] = dot;
    }
    const vf turn = load(inverse + s), dot = sum_each(dots) * turn;
    sum += hsum(dot);
    float along[W];
    store(along, turn != 1.f / EPS ? dot * turn : vf{});  // below EPS the length is a constant
    for (int64_t i = 0; i < count; ++i, row += x.ld, up += dp) {
      const float a = along[i], t = inverse[s + i];
      float* out = to.at + (s + i) * to.ld;
      for (int64_t j = 0; j < dp; j += W) {
        const vf y = load(row + j);
        vf d = (load(up + j) - y * a) * t;
        if (h.elu) d *= y > 0.f ? splat(1.f) : y + 1.f;  // elu'(x) = 1 above zero, else exp(x) = elu(x) + 1
        store(out + j, d);
      }
    }
  }
  return sum;
}

void add_into(float* sum, const float* other, int64_t n) {
  for (int64_t i = 0; i < n; i += W) store(sum + i, load(sum + i) + load(other + i));
}

// Keeps A[i, j] for j <= i, zero above.
void lower_triangle(float* A, int64_t n, int64_t ld) {
  for (int64_t i = 0; i < n; ++i)
    if (i + 1 < ld) std::memset(A + i * ld + i + 1, 0, sizeof(float) * static_cast<size_t>(ld - i - 1));
}

// tile [n, dp] to columns [dp, np]; the rows between n and np are made zero first.
void transpose_rows(float* tile, int64_t n, int64_t dp, float* columns) {
  const int64_t np = padded16(n);
  std::memset(tile + n * dp, 0, sizeof(float) * static_cast<size_t>((np - n) * dp));
  transpose(np, dp, tile, dp, columns, np);
}

float* take(float*& scratch, int64_t n) {
  float* p = scratch;
  scratch += n;
  return p;
}

}  // namespace

int64_t attention_trim(AttentionHead& h, bool backward) {
  int64_t first = 0, last = h.limit;
  if (h.mask) {
    while (last > 0 && !h.mask[(last - 1) * h.mask_step]) --last;
    while (first < last && !h.mask[first * h.mask_step]) ++first;
  }
  const auto clear = [&](void* rows, int64_t row) {
    zero_rows(h, rows, row, 0, first);
    zero_rows(h, rows, row, last, h.n);
  };
  if (backward) {
    clear(h.dq, h.dq_row);
    clear(h.dk, h.d_row);
    clear(h.dv, h.d_row);
  } else {
    clear(h.out, h.out_row);
  }
  const int64_t size = h.bf16 ? 2 : 4;
  const auto skip = [&](const void* p, int64_t row) { return static_cast<const char*>(p) + first * row * size; };
  const auto skip_out = [&](void* p, int64_t row) { return p ? static_cast<char*>(p) + first * row * size : nullptr; };
  h.q = skip(h.q, h.q_row);
  h.k = skip(h.k, h.row);
  h.v = skip(h.v, h.row);
  if (backward) h.grad = skip(h.grad, h.grad_row);
  h.out = skip_out(h.out, h.out_row);
  h.dq = skip_out(h.dq, h.dq_row);
  h.dk = skip_out(h.dk, h.d_row);
  h.dv = skip_out(h.dv, h.d_row);
  h.n = h.asked = last - first;
  if (h.mask) h.mask += first * h.mask_step;
  const int64_t count = count_valid(h, h.n);
  if (count == h.n) h.mask = nullptr;
  return count;
}

void attention_state(const AttentionHead& h, int64_t begin, int64_t end, float* sum, float* scratch) {
  const int64_t dp = padded16(h.d);
  float* buffer = take(scratch, ATTENTION_BLOCK * dp);
  float* V = take(scratch, ATTENTION_BLOCK * dp);
  alignas(64) float inverse[ATTENTION_BLOCK];
  for (int64_t s = begin; s < end; s += ATTENTION_BLOCK) {
    const int64_t n = smaller(ATTENTION_BLOCK, end - s);
    Ahead ahead;
    if (h.next_in.rows) {
      soon_next(h, s, 0, 2, ahead);
    } else {
      soon(h, keys(h), s + n, end, ahead);
      soon(h, values(h), s + n, end, ahead);
      if (s + n == h.n) {  // attention_apply follows
        soon(h, queries(h), 0, h.asked, ahead);
        soon(h, results(h.out, h.out_row), 0, h.asked, ahead);
      }
    }
    const Rows k = directions(h, keys(h), s, n, buffer, inverse);
    scaled(rows(h, values(h), s, n, V), n, dp, inverse, V);
    add_outer(dp, dp, n, k.at, k.ld, V, dp, sum, dp, ahead);
  }
}

void attention_apply(const AttentionHead& h, int64_t begin, int64_t end, const float* state, float* scratch) {
  const int64_t dp = padded16(h.d);
  float* buffer = take(scratch, ATTENTION_BLOCK * dp);
  float* result = take(scratch, ATTENTION_BLOCK * dp);
  alignas(64) float inverse[ATTENTION_BLOCK];
  for (int64_t s = begin; s < end; s += ATTENTION_BLOCK) {
    const int64_t n = smaller(ATTENTION_BLOCK, end - s);
    Ahead ahead;
    if (h.next_in.rows) {
      soon_next(h, s, 1, 2, ahead);
    } else {
      soon(h, queries(h), s + n, end, ahead);
      soon(h, results(h.out, h.out_row), s + n, end, ahead);
    }
    const Rows q = directions(h, queries(h), s, n, buffer, inverse);
    for (int64_t i = 0; i < n; ++i) inverse[i] *= h.scale;
    const Place out = place(h, h.out, h.out_row, s, result);
    rows_times(n, dp, dp, q.at, q.ld, state, dp, out.at, out.ld, inverse, ahead);
    finish(h, out, h.out, h.out_row, s, n);
  }
}

void attention_square_forward(const AttentionHead& h, float* scratch) {
  const int64_t dp = padded16(h.d), n = h.n, np = padded16(n), asked = h.asked;
  float* Q = take(scratch, ATTENTION_MAX_D * dp);
  float* K = take(scratch, ATTENTION_MAX_D * dp);
  float* V = take(scratch, ATTENTION_MAX_D * dp);
  float* Kt = take(scratch, ATTENTION_MAX_D * dp);
  float* A = take(scratch, ATTENTION_MAX_D * ATTENTION_MAX_D);
  float inverse_q[ATTENTION_MAX_D], inverse_k[ATTENTION_MAX_D];
  load_directions(h, queries(h), 0, asked, Q, inverse_q);
  load_directions(h, keys(h), 0, n, K, inverse_k);
  load_any(h, values(h), 0, n, V);
  for (int64_t i = 0; i < asked; ++i) inverse_q[i] *= h.scale;
  scale_rows(Q, asked, dp, inverse_q);
  scale_rows(V, n, dp, inverse_k);
  transpose_rows(K, n, dp, Kt);
  small_gemm<false>(asked, np, dp, Q, dp, 1, Kt, np, A, np);
  small_gemm<false>(asked, dp, n, A, np, 1, V, dp, K, dp);  // K is free now
  store_any(h, h.out, h.out_row, 0, asked, K);
}

double attention_square_backward(const AttentionHead& h, float* scratch) {
  const int64_t dp = padded16(h.d), n = h.n, np = padded16(n), asked = h.asked;
  float* Q = take(scratch, ATTENTION_MAX_D * dp);
  float* K = take(scratch, ATTENTION_MAX_D * dp);
  float* V = take(scratch, ATTENTION_MAX_D * dp);
  float* G = take(scratch, ATTENTION_MAX_D * dp);
  float* X = take(scratch, ATTENTION_MAX_D * dp);
  float* Xt = take(scratch, ATTENTION_MAX_D * dp);
  float* A = take(scratch, ATTENTION_MAX_D * ATTENTION_MAX_D);
  float* B = take(scratch, ATTENTION_MAX_D * ATTENTION_MAX_D);
  float inverse_q[ATTENTION_MAX_D], inverse_k[ATTENTION_MAX_D], turn[ATTENTION_MAX_D];
  load_directions(h, queries(h), 0, asked, Q, inverse_q);
  load_directions(h, keys(h), 0, n, K, inverse_k);
  load_any(h, values(h), 0, n, V);
  load_any(h, gradients(h), 0, asked, G);
  for (int64_t i = 0; i < asked; ++i) turn[i] = inverse_q[i] * h.scale;
  scale_rows(Q, asked, dp, turn);  // c q
  scale_rows(K, n, dp, inverse_k);
  transpose_rows(K, n, dp, Xt);
  small_gemm<false>(asked, np, dp, Q, dp, 1, Xt, np, A, np);
  small_gemm<false>(n, dp, asked, A, 1, np, G, dp, X, dp);
  store_any(h, h.dv, h.d_row, 0, n, X);
  transpose_rows(V, n, dp, Xt);
  small_gemm<false>(asked, np, dp, G, dp, 1, Xt, np, B, np);
  small_gemm<false>(asked, dp, n, B, np, 1, K, dp, X, dp);  // dL/d(c q)
  double weighted = 0;
  for (int64_t i = 0; i < asked; ++i) {
    // direction q = Q / c, and its gradient is c times that of c q
    weighted += direction_backward(h, Q + i * dp, 1.f / h.scale, inverse_q[i], X + i * dp, dp) * h.scale;
    for (int64_t j = 0; j < dp; j += W) store(X + i * dp + j, load(X + i * dp + j) * h.scale);
  }
  store_any(h, h.dq, h.dq_row, 0, asked, X);
  small_gemm<false>(n, dp, asked, B, 1, np, Q, dp, X, dp);
  for (int64_t i = 0; i < n; ++i) direction_backward(h, K + i * dp, 1.f, inverse_k[i], X + i * dp, dp);
  store_any(h, h.dk, h.d_row, 0, n, X);
  return weighted;
}

double attention_query_backward(const AttentionHead& h, int64_t begin, int64_t end, const float* state, float* sum,
                                float* scratch) {
  const int64_t dp = padded16(h.d);
  float* buffer = take(scratch, ATTENTION_BLOCK * dp);
  float* G = take(scratch, ATTENTION_BLOCK * dp);
  float* X = take(scratch, ATTENTION_BLOCK * dp);
  float* state_t = take(scratch, dp * dp);
  alignas(64) float inverse[ATTENTION_BLOCK], factor[ATTENTION_BLOCK];
  transpose(dp, dp, state, dp, state_t, dp);
  for (int64_t i = 0; i < dp * dp; i += W) store(state_t + i, load(state_t + i) * h.scale);
  double weighted = 0;
  for (int64_t s = begin; s < end; s += ATTENTION_BLOCK) {
    const int64_t n = smaller(ATTENTION_BLOCK, end - s);
    Ahead during, after;
    if (h.next_in.rows) {
      soon_next(h, s, 0, 4, during);
      soon_next(h, s, 1, 4, after);
    } else {
      soon(h, results(h.dq, h.dq_row), s, end, during);
      soon(h, queries(h), s + n, end, during);
      soon(h, gradients(h), s + n, end, after);
      if (s + n == h.asked) {  // attention_key_backward follows
        soon(h, keys(h), 0, h.n, during);
        soon(h, values(h), 0, h.n, after);
      }
    }
    const Rows q = directions(h, queries(h), s, n, buffer, inverse), g = rows(h, gradients(h), s, n, G);
    rows_times(n, dp, dp, g.at, g.ld, state_t, dp, X, dp, nullptr, during);
    for (int64_t i = 0; i < n; ++i) factor[i] = inverse[i] * h.scale;
    scaled(g, n, dp, factor, G);
    add_outer(dp, dp, n, q.at, q.ld, G, dp, sum, dp, after);
    const Place dq = place(h, h.dq, h.dq_row, s, X);
    weighted += directions_backward(h, q, inverse, n, X, dq);
    finish(h, dq, h.dq, h.dq_row, s, n);
  }
  return weighted;
}

void attention_key_backward(const AttentionHead& h, int64_t begin, int64_t end, const float* sum, float* scratch) {
  const int64_t dp = padded16(h.d);
  float* buffer = take(scratch, ATTENTION_BLOCK * dp);
  float* V = take(scratch, ATTENTION_BLOCK * dp);
  float* X = take(scratch, ATTENTION_BLOCK * dp);
  float* sum_t = take(scratch, dp * dp);
  alignas(64) float inverse[ATTENTION_BLOCK];
  transpose(dp, dp, sum, dp, sum_t, dp);
  for (int64_t s = begin; s < end; s += ATTENTION_BLOCK) {
    const int64_t n = smaller(ATTENTION_BLOCK, end - s);
    Ahead during, after;
    if (h.next_in.rows) {
      soon_next(h, s, 2, 4, during);
      soon_next(h, s, 3, 4, after);
    } else {
      soon(h, results(h.dk, h.d_row), s, end, during);
      soon(h, results(h.dv, h.d_row), s, end, during);
      soon(h, keys(h), s + n, end, during);
      soon(h, values(h), s + n, end, after);
    }
    const Rows k = directions(h, keys(h), s, n, buffer, inverse), v = rows(h, values(h), s, n, V);
    rows_times(n, dp, dp, v.at, v.ld, sum_t, dp, X, dp, nullptr, during);
    const Place dk = place(h, h.dk, h.d_row, s, X);
    directions_backward(h, k, inverse, n, X, dk);
    finish(h, dk, h.dk, h.d_row, s, n);
    const Place dv = place(h, h.dv, h.d_row, s, X);
    rows_times(n, dp, dp, k.at, k.ld, sum, dp, dv.at, dv.ld, inverse, after);
    finish(h, dv, h.dv, h.d_row, s, n);
  }
}

void attention_causal_sum(const AttentionHead& h, int64_t begin, int64_t end, bool of_gradient, float* own,
                          float* scratch) {
  const int64_t dp = padded16(h.d);
  float* X = take(scratch, ATTENTION_BLOCK * dp);
  float* Y = take(scratch, ATTENTION_BLOCK * dp);
  float inverse[ATTENTION_BLOCK];
  Scales scales;
  std::memset(own, 0, sizeof(float) * static_cast<size_t>(dp * dp));
  const int64_t blocks = (end - begin + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK;
  int64_t count = count_valid(h, begin);
  for (int64_t b = 0; b < blocks; ++b) {
    // The sums of the gradient run from the back, in the order in which the key pass adds them.
    const int64_t s = begin + ATTENTION_BLOCK * (of_gradient ? blocks - 1 - b : b);
    const int64_t n = smaller(ATTENTION_BLOCK, end - s);
    if (of_gradient) count = count_valid(h, s);
    row_scales(h, s, n, count, scales);
    if (!of_gradient)
      for (int64_t i = 0; i < n; ++i) count += valid(h, s + i);
    load_directions(h, of_gradient ? queries(h) : keys(h), s, n, X, inverse);
    load_any(h, of_gradient ? gradients(h) : values(h), s, n, Y);
    const float* factor = of_gradient ? scales.query : scales.key;
    for (int64_t i = 0; i < n; ++i) inverse[i] *= factor[i];
    scale_rows(X, n, dp, inverse);
    small_gemm<true>(dp, dp, n, X, 1, dp, Y, dp, own, dp);
  }
}

void attention_causal_forward(const AttentionHead& h, int64_t begin, int64_t end, const float* before, float* own,
                              float* scratch) {
  const int64_t dp = padded16(h.d);
  float* Q = take(scratch, ATTENTION_BLOCK * dp);
  float* K = take(scratch, ATTENTION_BLOCK * dp);
  float* V = take(scratch, ATTENTION_BLOCK * dp);
  float* Kt = take(scratch, ATTENTION_BLOCK * dp);
  float* O = take(scratch, ATTENTION_BLOCK * dp);
  float* A = take(scratch, ATTENTION_BLOCK * ATTENTION_BLOCK);
  float* state = take(scratch, dp * dp);
  float inverse[ATTENTION_BLOCK];
  Scales scales;
  std::memset(own, 0, sizeof(float) * static_cast<size_t>(dp * dp));
  int64_t count = count_valid(h, begin);
  for (int64_t s = begin; s < end; s += ATTENTION_BLOCK) {
    const int64_t n = smaller(ATTENTION_BLOCK, end - s), np = padded16(n);
    row_scales(h, s, n, count, scales);
    for (int64_t i = 0; i < n; ++i) count += valid(h, s + i);
    load_directions(h, keys(h), s, n, K, inverse);
    for (int64_t i = 0; i < n; ++i) inverse[i] *= scales.key[i];
    scale_rows(K, n, dp, inverse);
    load_any(h, values(h), s, n, V);
    load_directions(h, queries(h), s, n, Q, inverse);
    for (int64_t i = 0; i < n; ++i) inverse[i] *= scales.query[i];
    scale_rows(Q, n, dp, inverse);
    std::memcpy(state, before, sizeof(float) * static_cast<size_t>(dp * dp));
    add_into(state, own, dp * dp);
    small_gemm<false>(n, dp, dp, Q, dp, 1, state, dp, O, dp);
    transpose_rows(K, n, dp, Kt);
    small_gemm<false>(n, np, dp, Q, dp, 1, Kt, np, A, np);
    lower_triangle(A, n, np);
    small_gemm<true>(n, dp, n, A, np, 1, V, dp, O, dp);
    store_any(h, h.out, h.out_row, s, n, O);
    small_gemm<true>(dp, dp, n, K, 1, dp, V, dp, own, dp);
  }
}

double attention_causal_query_backward(const AttentionHead& h, int64_t begin, int64_t end, const float* before,
                                       float* own, float* scratch) {
  const int64_t dp = padded16(h.d);
  float* Q = take(scratch, ATTENTION_BLOCK * dp);
  float* K = take(scratch, ATTENTION_BLOCK * dp);
  float* V = take(scratch, ATTENTION_BLOCK * dp);
  float* G = take(scratch, ATTENTION_BLOCK * dp);
  float* X = take(scratch, ATTENTION_BLOCK * dp);
  float* Vt = take(scratch, ATTENTION_BLOCK * dp);
  float* A = take(scratch, ATTENTION_BLOCK * ATTENTION_BLOCK);
  float* state = take(scratch, dp * dp);
  float* state_t = take(scratch, dp * dp);
  float inverse[ATTENTION_BLOCK];
  Scales scales;
  std::memset(own, 0, sizeof(float) * static_cast<size_t>(dp * dp));
  int64_t count = count_valid(h, begin);
  double weighted = 0;
  for (int64_t s = begin; s < end; s += ATTENTION_BLOCK) {
    const int64_t n = smaller(ATTENTION_BLOCK, end - s), np = padded16(n);
    row_scales(h, s, n, count, scales);
    for (int64_t i = 0; i < n; ++i) count += valid(h, s + i);
    load_directions(h, keys(h), s, n, K, inverse);
    for (int64_t i = 0; i < n; ++i) inverse[i] *= scales.key[i];
    scale_rows(K, n, dp, inverse);
    load_any(h, values(h), s, n, V);
    load_any(h, gradients(h), s, n, G);
    scale_rows(G, n, dp, scales.query);
    load_directions(h, queries(h), s, n, Q, inverse);
    std::memcpy(state, before, sizeof(float) * static_cast<size_t>(dp * dp));
    add_into(state, own, dp * dp);
    transpose(dp, dp, state, dp, state_t, dp);
    small_gemm<false>(n, dp, dp, G, dp, 1, state_t, dp, X, dp);
    small_gemm<true>(dp, dp, n, K, 1, dp, V, dp, own, dp);
    transpose_rows(V, n, dp, Vt);
    small_gemm<false>(n, np, dp, G, dp, 1, Vt, np, A, np);
    lower_triangle(A, n, np);
    small_gemm<true>(n, dp, n, A, np, 1, K, dp, X, dp);
    for (int64_t i = 0; i < n; ++i) {
      const float dot = direction_backward(h, Q + i * dp, inverse[i], inverse[i], X + i * dp, dp);
      weighted += dot * (h.on_key ? 0.f : scales.log_count[i]);
    }
    store_any(h, h.dq, h.dq_row, s, n, X);
  }
  return weighted;
}

double attention_causal_key_backward(const AttentionHead& h, int64_t begin, int64_t end, const float* behind,
                                     float* own, float* scratch) {
  const int64_t dp = padded16(h.d);
  float* Q = take(scratch, ATTENTION_BLOCK * dp);
  float* K = take(scratch, ATTENTION_BLOCK * dp);
  float* V = take(scratch, ATTENTION_BLOCK * dp);
  float* G = take(scratch, ATTENTION_BLOCK * dp);
  float* X = take(scratch, ATTENTION_BLOCK * dp);
  float* Xt = take(scratch, ATTENTION_BLOCK * dp);
  float* A = take(scratch, ATTENTION_BLOCK * ATTENTION_BLOCK);
  float* sum = take(scratch, dp * dp);
  float* sum_t = take(scratch, dp * dp);
  float inverse[ATTENTION_BLOCK], inverse_q[ATTENTION_BLOCK];
  Scales scales;
  std::memset(own, 0, sizeof(float) * static_cast<size_t>(dp * dp));
  const int64_t blocks = (end - begin + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK;
  double weighted = 0;
  for (int64_t b = blocks - 1; b >= 0; --b) {
    const int64_t s = begin + b * ATTENTION_BLOCK;
    const int64_t n = smaller(ATTENTION_BLOCK, end - s), np = padded16(n);
    row_scales(h, s, n, count_valid(h, s), scales);
    load_directions(h, queries(h), s, n, Q, inverse_q);
    for (int64_t i = 0; i < n; ++i) inverse_q[i] *= scales.query[i];
    scale_rows(Q, n, dp, inverse_q);
    load_any(h, gradients(h), s, n, G);
    load_directions(h, keys(h), s, n, K, inverse);
    load_any(h, values(h), s, n, V);
    scale_rows(V, n, dp, scales.key);
    std::memcpy(sum, behind, sizeof(float) * static_cast<size_t>(dp * dp));
    add_into(sum, own, dp * dp);
    transpose(dp, dp, sum, dp, sum_t, dp);
    // dk: (a v) sum^T + tril(G (a V)^T)^T Q
    small_gemm<false>(n, dp, dp, V, dp, 1, sum_t, dp, X, dp);
    transpose_rows(V, n, dp, Xt);
    small_gemm<false>(n, np, dp, G, dp, 1, Xt, np, A, np);
    lower_triangle(A, n, np);
    small_gemm<true>(n, dp, n, A, 1, np, Q, dp, X, dp);
    for (int64_t i = 0; i < n; ++i) {
      const float dot = direction_backward(h, K + i * dp, inverse[i], inverse[i], X + i * dp, dp);
      weighted += dot * (h.on_key ? scales.log_count[i] : 0.f);  // k . dk = (a v) . d(a v)
    }
    store_any(h, h.dk, h.d_row, s, n, X);
    // dv: a (k sum + tril(Q k^T)^T G)
    scale_rows(K, n, dp, inverse);
    small_gemm<false>(n, dp, dp, K, dp, 1, sum, dp, X, dp);
    transpose_rows(K, n, dp, Xt);
    small_gemm<false>(n, np, dp, Q, dp, 1, Xt, np, A, np);
    lower_triangle(A, n, np);
    small_gemm<true>(n, dp, n, A, 1, np, G, dp, X, dp);
    scale_rows(X, n, dp, scales.key);
    store_any(h, h.dv, h.d_row, s, n, X);
    small_gemm<true>(dp, dp, n, Q, 1, dp, G, dp, own, dp);
  }
  return weighted;
}

}  // namespace KERN_NS
