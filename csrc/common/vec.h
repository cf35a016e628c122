// Vectors of floats, one source for every instruction set. Included only by kernels_cpu.cpp files,
// which are compiled once per set with KERN_NS naming the namespace: nothing here may be shared
// between two sets, and no STL container may appear (the linker could pick the AVX-512 copy of an
// inline function for the baseline).
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define RE_INLINE __attribute__((always_inline)) inline

namespace KERN_NS {

#if defined(__AVX512F__)
inline constexpr int W = 16;  // lanes of a vector
#elif defined(__AVX2__)
inline constexpr int W = 8;
#else
inline constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef float vf_u __attribute__((vector_size(W * 4), aligned(4)));

RE_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_u*>(p); }
RE_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_u*>(p) = v; }
RE_INLINE vf splat(float x) { return vf{} + x; }

RE_INLINE vf load_n(const float* p, int n) {  // the first n lanes, zeros behind
  vf v{};
  std::memcpy(&v, p, sizeof(float) * static_cast<size_t>(n));
  return v;
}
RE_INLINE void store_n(float* p, vf v, int n) { std::memcpy(p, &v, sizeof(float) * static_cast<size_t>(n)); }

RE_INLINE vf vmax(vf a, vf b) { return a > b ? a : b; }
RE_INLINE vf vmin(vf a, vf b) { return a < b ? a : b; }
RE_INLINE vf vsqrt(vf v) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(v);
#else
  for (int i = 0; i < W; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
#endif
}

// Halves are folded until one lane is left. A fixed pairwise order: the same bits wherever it is called.
RE_INLINE float hsum(vf v) {
#if defined(__AVX512F__)
  typedef float half_t __attribute__((vector_size(32)));
  const half_t v8 = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                    __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#elif defined(__AVX2__)
  const vf v8 = v;
#endif
  typedef float quarter_t __attribute__((vector_size(16)));
#if defined(__AVX2__)
  const quarter_t v4 = __builtin_shufflevector(v8, v8, 0, 1, 2, 3) + __builtin_shufflevector(v8, v8, 4, 5, 6, 7);
#else
  const quarter_t v4 = v;
#endif
  const quarter_t v2 = v4 + __builtin_shufflevector(v4, v4, 2, 3, 2, 3);
  return v2[0] + v2[1];
}
RE_INLINE float hmax(vf v) {
  float t[W];
  std::memcpy(t, &v, sizeof(v));
  for (int h = W / 2; h > 0; h /= 2)
    for (int i = 0; i < h; ++i) t[i] = t[i] > t[i + h] ? t[i] : t[i + h];
  return t[0];
}

// Lane x of the result is the sum of the lanes of v[x] (v is used up): neighbours are added and halves
// put together until one vector is left.
RE_INLINE vf sum_each(vf* v) {
  vi even, odd;
  for (int i = 0; i < W; ++i) even[i] = 2 * i, odd[i] = 2 * i + 1;
#pragma GCC unroll 4
  for (int n = W; n > 1; n /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < n / 2; ++i)
      v[i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], even) + __builtin_shuffle(v[2 * i], v[2 * i + 1], odd);
  return v[0];
}

// The W x W matrix with rows v[0], ..., v[W - 1], transposed in place: blocks swap across the diagonal,
// twice as large each time.
RE_INLINE void transpose(vf* v) {
#pragma GCC unroll 4
  for (int h = 1; h < W; h *= 2) {
    vi low, high;
    for (int i = 0; i < W; ++i) low[i] = (i & h) ? W + i - h : i, high[i] = (i & h) ? W + i : i + h;
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i)
      if (!(i & h)) {
        const vf a = v[i], b = v[i + h];
        v[i] = __builtin_shuffle(a, b, low);
        v[i + h] = __builtin_shuffle(a, b, high);
      }
  }
}

// exp(x), relative error about 2e-7 on [-87.3, 88.3], clamped outside, NaN for NaN (Cody and Waite
// reduction by ln 2 in two parts, then a polynomial of degree 5 on the remainder).
#if defined(__AVX512F__)
RE_INLINE vf vexp(vf x) {
  x = _mm512_max_ps(splat(-87.3f), _mm512_min_ps(splat(88.3f), x));
  const vf n = _mm512_roundscale_ps(x * 1.44269504f, 8);  // to the nearest integer
  vf r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  vf p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return _mm512_scalef_ps(p * (r * r) + (r + 1.f), n);
}
#else
RE_INLINE vf vexp(vf x) {
  x = vmax(splat(-87.3f), vmin(splat(88.3f), x));
  const vf shift = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to the nearest integer
  const vf shifted = x * 1.44269504f + shift;
  const vf n = shifted - shift;
  vf r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  vf p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.f);
  vi bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 127) << 23;  // the low bits of `shifted` hold n
  vf scale;
  std::memcpy(&scale, &bits, sizeof(bits));
  return p * scale;
}
#endif

// 2^x for x <= 127, relative error about 1.5e-7; 0 far below -126 (a polynomial of degree 5, fitted to the least
// largest relative error on [-1/2, 1/2]).
RE_INLINE vf vexp2(vf x) {
#if defined(__AVX512F__)
  x = _mm512_max_ps(splat(-200.f), x);
  const vf n = _mm512_roundscale_ps(x, 8);
#else
  x = vmax(splat(-126.f), vmin(splat(127.f), x));
  const vf shift = splat(12582912.f);
  const vf shifted = x + shift;
  const vf n = shifted - shift;
#endif
  const vf r = x - n;
  vf p = splat(1.3264727e-3f);
  p = p * r + 9.6715130e-3f;
  p = p * r + 5.5507336e-2f;
  p = p * r + 2.4022242e-1f;
  p = p * r + 6.9314700e-1f;
  p = p * r + 1.f;
#if defined(__AVX512F__)
  return _mm512_scalef_ps(p, n);
#else
  vi bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 127) << 23;
  vf scale;
  std::memcpy(&scale, &bits, sizeof(bits));
  return p * scale;
#endif
}

RE_INLINE vf vsigmoid(vf x) { return 1.f / (1.f + vexp(-x)); }

// log(x) for positive, finite, normal x; relative error about 2e-7 away from x = 1.
RE_INLINE vf vlog(vf x) {
  vi bits;
  std::memcpy(&bits, &x, sizeof(bits));
  vi exponent = ((bits - 0x3f3504f3) >> 23);  // mantissa falls into [sqrt(1/2), sqrt(2))
  bits = bits - (exponent << 23);
  vf m;
  std::memcpy(&m, &bits, sizeof(m));
  const vf e = __builtin_convertvector(exponent, vf);
  const vf f = m - 1.f;
  vf p = splat(7.0376836292e-2f);
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const vf f2 = f * f;
  vf y = p * f * f2;
  y = y - e * 2.12194440e-4f;
  y = y - 0.5f * f2;
  return f + y + e * 0.693359375f;
}

}  // namespace KERN_NS
