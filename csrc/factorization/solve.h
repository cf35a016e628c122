// Implicit alternating least squares: one row's normal equations, by conjugate gradient that never
// forms the matrix, or by Cholesky.
#pragma once

#include "factorization/kernels.h"
#include "factorization/lanes.h"

namespace KERN_NS {

// out = G v + lambda v
template <int NV>
RE_INLINE void gram_times(const float* gram, int64_t d, float lambda, const float* v, float* out) {
  if constexpr (NV > 0 && NV <= 4) {
    vf even[NV], odd[NV];
    for (int k = 0; k < NV; ++k) even[k] = lambda * load(v + k * W), odd[k] = vf{};
    for (int64_t r = 0; r < NV * W; r += 2, gram += 2 * NV * W) {
      const vf a = splat(v[r]), b = splat(v[r + 1]);
      for (int k = 0; k < NV; ++k) {
        even[k] += a * load(gram + k * W);
        odd[k] += b * load(gram + (NV + k) * W);
      }
    }
    for (int k = 0; k < NV; ++k) store(out + k * W, even[k] + odd[k]);
  } else {
    for (int64_t c = 0; c < d; c += W) {
      vf even = lambda * load(v + c), odd{};
      for (int64_t r = 0; r < d; r += 2) {
        even += splat(v[r]) * load(gram + r * d + c);
        odd += splat(v[r + 1]) * load(gram + (r + 1) * d + c);
      }
      store(out + c, even + odd);
    }
  }
}

// out += sum_t (base_t + slope_t (y_t . v)) y_t;  residual: (1 + w) - w s, product: w s.
template <int NV, bool residual>
RE_INLINE void add_rows(const recengine::SolveArgs& a, int64_t from, int64_t to, const float* v, float* out) {
  const auto coefficient = [](float w, float s) { return residual ? 1.f + w - w * s : w * s; };
  if constexpr (NV > 0 && NV <= 4) {
    vf x[NV], sum[NV];
    for (int k = 0; k < NV; ++k) x[k] = load(v + k * W), sum[k] = load(out + k * W);
    int64_t t = from;
    for (; t + 4 <= to; t += 4) {
      const float* y[4];
      vf part[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        y[j] = a.y + a.columns[t + j] * static_cast<int64_t>(NV * W);
        part[j] = load(y[j]) * x[0];
        for (int k = 1; k < NV; ++k) part[j] += load(y[j] + k * W) * x[k];
      }
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const vf c = splat(coefficient(a.weights[t + j], lane_sum(part[j])));
        for (int k = 0; k < NV; ++k) sum[k] += c * load(y[j] + k * W);
      }
    }
    for (; t < to; ++t) {
      const float* y = a.y + a.columns[t] * static_cast<int64_t>(NV * W);
      vf part = load(y) * x[0];
      for (int k = 1; k < NV; ++k) part += load(y + k * W) * x[k];
      const vf c = splat(coefficient(a.weights[t], lane_sum(part)));
      for (int k = 0; k < NV; ++k) sum[k] += c * load(y + k * W);
    }
    for (int k = 0; k < NV; ++k) store(out + k * W, sum[k]);
  } else {
    for (int64_t t = from; t < to; ++t) {
      const float* y = a.y + a.columns[t] * a.d;
      vf part{};
      for (int64_t k = 0; k < a.d; k += W) part += load(y + k) * load(v + k);
      const vf c = splat(coefficient(a.weights[t], lane_sum(part)));
      for (int64_t k = 0; k < a.d; k += W) store(out + k, load(out + k) + c * load(y + k));
    }
  }
}

template <int NV>
RE_INLINE float dot(const float* a, const float* b, int64_t d) {
  vf s{};
  for (int64_t k = 0; k < (NV ? NV * W : d); k += W) s += load(a + k) * load(b + k);
  return lane_sum(s);
}

template <int NV>
RE_INLINE void conjugate_gradient(const recengine::SolveArgs& a, int64_t row, float* scratch) {
  const int64_t d = NV ? NV * W : a.d, from = a.indptr[row], to = a.indptr[row + 1];
  float *x = a.x + row * d, *r = scratch, *p = r + d, *q = p + d;
  gram_times<NV>(a.gram, d, a.regularization[row], x, r);
  for (int64_t k = 0; k < d; k += W) store(r + k, -load(r + k));
  add_rows<NV, true>(a, from, to, x, r);
  std::memcpy(p, r, sizeof(float) * static_cast<size_t>(d));
  float rr = dot<NV>(r, r, d);
  for (int64_t step = 0; step < a.steps && rr > 1e-20f; ++step) {
    gram_times<NV>(a.gram, d, a.regularization[row], p, q);
    add_rows<NV, false>(a, from, to, p, q);
    const vf alpha = splat(rr / dot<NV>(p, q, d));
    for (int64_t k = 0; k < d; k += W) {
      store(x + k, load(x + k) + alpha * load(p + k));
      store(r + k, load(r + k) - alpha * load(q + k));
    }
    const float next = dot<NV>(r, r, d);
    const vf beta = splat(next / rr);
    for (int64_t k = 0; k < d; k += W) store(p + k, load(r + k) + beta * load(p + k));
    rr = next;
  }
}

// A's rows are kept to the diagonal, rounded up to whole vectors; L overwrites them.
inline void cholesky(const recengine::SolveArgs& a, int64_t row, float* scratch) {
  const int64_t d = a.d;
  float *m = scratch, *x = a.x + row * d, *column = scratch + d * d;
  std::memcpy(m, a.gram, sizeof(float) * static_cast<size_t>(d * d));
  for (int64_t k = 0; k < d; ++k) m[k * d + k] += a.regularization[row], x[k] = 0.f;
  for (int64_t t = a.indptr[row]; t < a.indptr[row + 1]; ++t) {
    const float *y = a.y + a.columns[t] * d, w = a.weights[t];
    for (int64_t i = 0; i < d; ++i) {
      const vf c = splat(w * y[i]);
      for (int64_t k = 0; k <= i; k += W) store(m + i * d + k, load(m + i * d + k) + c * load(y + k));
    }
    for (int64_t k = 0; k < d; k += W) store(x + k, load(x + k) + (1.f + w) * load(y + k));
  }
  for (int64_t k = 0; k < d; ++k) {  // right-looking: column k, then the rows below it
    const float pivot = __builtin_sqrtf(m[k * d + k]), inverse = 1.f / pivot;
    m[k * d + k] = pivot;
    for (int64_t i = k + 1; i < d; ++i) column[i] = m[i * d + k] *= inverse;
    for (int64_t i = k + 1; i < d; ++i) {
      const vf c = splat(column[i]);
      int64_t j = k + 1;
      for (; j % W && j <= i; ++j) m[i * d + j] -= column[i] * column[j];
      for (; j <= i; j += W) store(m + i * d + j, load(m + i * d + j) - c * load(column + j));
    }
  }
  for (int64_t i = 0; i < d; ++i) {  // L z = b
    float s = x[i];
    for (int64_t k = 0; k < i; ++k) s -= m[i * d + k] * x[k];
    x[i] = s / m[i * d + i];
  }
  for (int64_t i = d - 1; i >= 0; --i) {  // L' x = z
    x[i] /= m[i * d + i];
    for (int64_t k = 0; k < i; ++k) x[k] -= m[i * d + k] * x[i];
  }
}

void solve_rows(const recengine::SolveArgs& a, int64_t begin, int64_t end, float* scratch) {
  if (a.steps == 0) {
    for (int64_t row = begin; row < end; ++row) cholesky(a, row, scratch);
    return;
  }
  with_vectors(a.d, [&]<int NV>() {
    for (int64_t row = begin; row < end; ++row) conjugate_gradient<NV>(a, row, scratch);
  });
}

void gram_rows(const float* y, int64_t d, int64_t begin, int64_t end, float* out) {
  for (int64_t k = 0; k < d * d; ++k) out[k] = 0.f;
  for (int64_t i = 0; i < d; i += 4)
    for (int64_t c = 0; c < d; c += W) {
      vf s0{}, s1{}, s2{}, s3{};
      for (int64_t r = begin; r < end; ++r) {
        const float* row = y + r * d;
        const vf v = load(row + c);
        s0 += splat(row[i]) * v;
        s1 += splat(row[i + 1]) * v;
        s2 += splat(row[i + 2]) * v;
        s3 += splat(row[i + 3]) * v;
      }
      store(out + i * d + c, s0);
      store(out + (i + 1) * d + c, s1);
      store(out + (i + 2) * d + c, s2);
      store(out + (i + 3) * d + c, s3);
    }
}

}  // namespace KERN_NS
