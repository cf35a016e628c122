// Reading and writing rows of a Matrix: kernels see floats, whatever lies in memory.
#pragma once

#include "common/matrix.h"
#include "common/vec.h"

namespace KERN_NS {

typedef uint16_t vh __attribute__((vector_size(W * 2)));
typedef uint32_t vu __attribute__((vector_size(W * 4)));

RE_INLINE float bf16_to_float(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}
RE_INLINE uint16_t float_to_bf16(float x) {  // to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
RE_INLINE vf load_bf16(const uint16_t* p) {
#if defined(__AVX512F__)
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
#else
  vh h;
  std::memcpy(&h, p, sizeof(h));
  const vu bits = __builtin_convertvector(h, vu) << 16;
  vf v;
  std::memcpy(&v, &bits, sizeof(v));
  return v;
#endif
}
#if defined(__AVX512BW__)
RE_INLINE __m256i narrow_bf16(vf v) {
  const __m512i x = _mm512_castps_si512(v), odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
  const __m512i round = _mm512_add_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(0x7fff)), odd);
  const __m512i y = _mm512_mask_mov_epi32(round, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc00000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(y, 16));
}
#endif
RE_INLINE void store_bf16(uint16_t* p, vf v) {
#if defined(__AVX512BW__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(v));
#else
  vu bits;
  std::memcpy(&bits, &v, sizeof(bits));
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const vu nan = reinterpret_cast<vu>(v != v);
  bits = (bits & ~nan) | (nan & 0x7fc0);
  const vh h = __builtin_convertvector(bits, vh);
  std::memcpy(p, &h, sizeof(h));
#endif
}

// Row r as n floats: the row itself where it lies so, else a copy in buffer.
RE_INLINE const float* read_row(const recengine::Matrix& m, int64_t r, int64_t n, float* buffer) {
  if (!m.bf16) {
    const float* p = static_cast<const float*>(m.data) + r * m.row;
    if (m.col == 1) return p;
    for (int64_t i = 0; i < n; ++i) buffer[i] = p[i * m.col];
    return buffer;
  }
  const uint16_t* p = static_cast<const uint16_t*>(m.data) + r * m.row;
  int64_t i = 0;
  if (m.col == 1)
    for (; i + W <= n; i += W) store(buffer + i, load_bf16(p + i));
  for (; i < n; ++i) buffer[i] = bf16_to_float(p[i * m.col]);
  return buffer;
}

RE_INLINE void write_row(const recengine::MutableMatrix& m, int64_t r, int64_t n, const float* from) {
  if (n == 0) return;  // of an empty tensor even the address may be null
  if (!m.bf16) {
    float* p = static_cast<float*>(m.data) + r * m.row;
    if (m.col == 1)
      std::memcpy(p, from, sizeof(float) * static_cast<size_t>(n));
    else
      for (int64_t i = 0; i < n; ++i) p[i * m.col] = from[i];
    return;
  }
  uint16_t* p = static_cast<uint16_t*>(m.data) + r * m.row;
  int64_t i = 0;
  if (m.col == 1)
    for (; i + W <= n; i += W) store_bf16(p + i, load(from + i));
  for (; i < n; ++i) p[i * m.col] = float_to_bf16(from[i]);
}

// The matrix that begins at (row, col) of m.
RE_INLINE recengine::Matrix shifted(recengine::Matrix m, int64_t row, int64_t col) {
  m.data = static_cast<const char*>(m.data) + (row * m.row + col * m.col) * (m.bf16 ? 2 : 4);
  return m;
}

// Rows as columns of a panel [width][N]: column x < count is row id(x) of m, the others are zero.
template <int N, class Id>
RE_INLINE void pack_across(const recengine::Matrix& m, Id&& id, int64_t count, int64_t width, float* to) {
  constexpr int64_t SPAN = 64;
  float buffer[W][SPAN], zeros[SPAN] = {};
  const float* row[W];
  for (int x0 = 0; x0 < N; x0 += W) {
    const int lanes = N - x0 < W ? N - x0 : W;
    for (int64_t k0 = 0; k0 < width; k0 += SPAN) {
      const int64_t n = width - k0 < SPAN ? width - k0 : SPAN;
      const recengine::Matrix part = shifted(m, 0, k0);
      for (int x = 0; x < W; ++x)
        row[x] = x < lanes && x0 + x < count ? read_row(part, id(x0 + x), n, buffer[x]) : zeros;
      for (int64_t k = 0; k < n; k += W) {
        vf v[W];
        const int deep = static_cast<int>(n - k < W ? n - k : W);
        if (deep == W)
          for (int x = 0; x < W; ++x) v[x] = load(row[x] + k);
        else
          for (int x = 0; x < W; ++x) v[x] = load_n(row[x] + k, deep);
        transpose(v);
        float* at = to + (k0 + k) * N + x0;
        if (N % W == 0)
          for (int i = 0; i < deep; ++i) store(at + i * N, v[i]);
        else
          for (int i = 0; i < deep; ++i) store_n(at + i * N, v[i], N % W < lanes && lanes == W ? W : N % W);
      }
    }
  }
}

}  // namespace KERN_NS
