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
  vh h;
  std::memcpy(&h, p, sizeof(h));
  const vu bits = __builtin_convertvector(h, vu) << 16;
  vf v;
  std::memcpy(&v, &bits, sizeof(v));
  return v;
}
RE_INLINE void store_bf16(uint16_t* p, vf v) {
  vu bits;
  std::memcpy(&bits, &v, sizeof(bits));
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const vu nan = reinterpret_cast<vu>(v != v);
  bits = (bits & ~nan) | (nan & 0x7fc0);
  const vh h = __builtin_convertvector(bits, vh);
  std::memcpy(p, &h, sizeof(h));
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

}  // namespace KERN_NS
