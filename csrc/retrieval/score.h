// The two ways to score a tile of items against a group of users (one lane a user), and the exact
// score of single items. `Exact` is the float32 micro-kernel; `Screen` multiplies in bf16 on matrix
// tiles and knows, per user and tile, how far its scores can be from the exact ones.
#pragma once

#include "common/amx.h"
#include "common/gemm.h"
#include "common/select.h"
#include "retrieval/topk.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace KERN_NS {

using recengine::retrieval::Element;
using recengine::retrieval::Matrix;
using recengine::retrieval::Task;

inline constexpr float INF = __builtin_inff();
inline constexpr float LOWEST = -3.402823466e38f;

RE_INLINE float widen(float x) { return x; }
RE_INLINE float widen(uint16_t x) { return bits_float(static_cast<uint32_t>(x) << 16); }

// One link of the chain that a score is. Spelt out: left to itself the compiler may multiply first and
// add afterwards in one loop and fuse in another, and two paths would differ in the last bit.
RE_INLINE float chain(float a, float b, float sum) {
#ifdef __FMA__
  return __builtin_fmaf(a, b, sum);
#else
  return sum + a * b;
#endif
}

// Calls fn with a null pointer of the matrix's element type.
template <class F>
RE_INLINE auto with_element(Element element, F&& fn) {
  return element == Element::f32 ? fn(static_cast<const float*>(nullptr)) : fn(static_cast<const uint16_t*>(nullptr));
}

// Row r as contiguous float32.
RE_INLINE void read_row(const Matrix& m, int64_t r, float* out) {
  with_element(m.element, [&](auto* kind) {
    auto* p = static_cast<decltype(kind)>(m.data) + r * m.row_stride;
    if (m.col_stride == 1)
      for (int64_t j = 0; j < m.cols; ++j) out[j] = widen(p[j]);
    else
      for (int64_t j = 0; j < m.cols; ++j) out[j] = widen(p[j * m.col_stride]);
  });
}

// out[c] = the exact scores of n items: eight chains at a time hide the latency of each.
template <class T>
static void score_items(const T* data, const Matrix& m, const float* query, const float* bias, const uint32_t* ids,
                        int64_t n, float* out) {
  constexpr int C = 8;
  const int64_t step = m.col_stride;
  for (int64_t at = 0; at < n; at += C) {
    const T* row[C];
    for (int c = 0; c < C; ++c) row[c] = data + static_cast<int64_t>(ids[at + c < n ? at + c : at]) * m.row_stride;
    float acc[C] = {};
    if (step == 1)
      for (int64_t j = 0; j < m.cols; ++j)
        for (int c = 0; c < C; ++c) acc[c] = chain(query[j], widen(row[c][j]), acc[c]);
    else
      for (int64_t j = 0; j < m.cols; ++j)
        for (int c = 0; c < C; ++c) acc[c] = chain(query[j], widen(row[c][j * step]), acc[c]);
    for (int c = 0; c < C && at + c < n; ++c) out[at + c] = bias ? acc[c] + bias[ids[at + c]] : acc[c];
  }
}
RE_INLINE void score_items(const Matrix& m, const float* query, const float* bias, const uint32_t* ids, int64_t n,
                           float* out) {
  with_element(m.element, [&](auto* kind) {
    score_items(static_cast<decltype(kind)>(m.data), m, query, bias, ids, n, out);
  });
}

RE_INLINE vf keep_max(vf kept, vf x) {  // a NaN in x never replaces a number
#if defined(__AVX512F__)
  return _mm512_max_ps(x, kept);
#elif defined(__AVX2__)
  return _mm256_max_ps(x, kept);
#else
  return x > kept ? x : kept;
#endif
}

RE_INLINE uint32_t lanes_at_least(vf x, vf floor) {  // bit l: x[l] >= floor[l]; never for NaN
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(x, floor, _CMP_GE_OQ);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, floor, _CMP_GE_OQ)));
#else
  uint32_t mask = 0;
  const vi held = x >= floor;
  for (int l = 0; l < W; ++l) mask |= static_cast<uint32_t>(held[l] & 1) << l;
  return mask;
#endif
}

struct Floors {  // of the 2 W users of a group
  vf low, high;
};

struct Exact {
  static constexpr int64_t LANES = NR, ROWS = MR;

  static int64_t group_bytes(int64_t d) { return d * LANES * 4; }
  static int64_t tile_bytes(int64_t d) { return (16 + d * ROWS) * 4; }

  static void pack_group(const Task& task, int64_t first, int64_t n, float* row, char* out) {
    float* dst = reinterpret_cast<float*>(out);
    const int64_t d = task.queries.cols;
    std::memset(out, 0, static_cast<size_t>(group_bytes(d)));
    for (int64_t u = 0; u < n; ++u) {
      read_row(task.queries, first + u, row);
      for (int64_t j = 0; j < d; ++j) dst[j * LANES + u] = row[j];
    }
  }

  static void pack_tile(const Task& task, int64_t first, int64_t n, float* row, char* out) {
    float *bias = reinterpret_cast<float*>(out), *dst = bias + 16;
    const int64_t d = task.items.cols;
    std::memset(out, 0, static_cast<size_t>(tile_bytes(d)));
    for (int64_t i = 0; i < n; ++i) {
      if (task.bias) bias[i] = task.bias[first + i];
      read_row(task.items, first + i, row);
      for (int64_t j = 0; j < d; ++j) dst[j * ROWS + i] = row[j];
    }
  }

  // How far a score may be from the exact one; what a score must reach to be looked at.
  static RE_INLINE Floors slack(const char*, const char*) { return {vf{}, vf{}}; }
  static RE_INLINE Floors floors(const char*, const char*, Floors exact) { return exact; }

  // Scores into out[ROWS][LANES]; which users have one that reaches its floor.
  static RE_INLINE uint32_t score(const char* group, const char* tile, int64_t d, float* out, Floors floor) {
    const float* bias = reinterpret_cast<const float*>(tile);
    vf best0 = splat(-INF), best1 = best0;
    micro(d, bias + 16, reinterpret_cast<const float*>(group), [&](int i, vf x, vf y) {
      const vf b = splat(bias[i]);
      x += b;
      y += b;
      store(out + i * LANES, x);
      store(out + i * LANES + W, y);
      best0 = keep_max(best0, x);
      best1 = keep_max(best1, y);
    });
    return lanes_at_least(best0, floor.low) | lanes_at_least(best1, floor.high) << W;
  }
};

#ifdef RECENGINE_AMX
// With q', x' the bf16 roundings, |q.x - q'.x'| <= |q'| |x - x'| + |q - q'| |x|; rounding of the two
// float32 sums adds at most (2 d + 8) 2^-23 (|q| |x| + |bias|) (with a factor of four to spare).
struct Screen {
  static constexpr int64_t LANES = 32, ROWS = 32;
  static constexpr int64_t GROUP_HEAD = 2 * 32 * 4, TILE_HEAD = (16 + 32) * 4;

  static int64_t steps(int64_t d) { return (d + 31) / 32; }
  static int64_t group_bytes(int64_t d) { return GROUP_HEAD + steps(d) * 2048; }
  static int64_t tile_bytes(int64_t d) { return TILE_HEAD + steps(d) * 2048; }
  static double rounding(int64_t d) { return static_cast<double>(2 * d + 8) * 0x1p-23; }
  static RE_INLINE float above(double x) { return next_up(static_cast<float>(x * (1 + 1e-6))); }

  // Nearest bf16, ties to even; subnormals become zero, as the matrix tiles read them.
  static RE_INLINE uint16_t narrow(float x) {
    const uint32_t b = float_bits(x);
    const uint32_t rounded = (b + 0x7fffu + ((b >> 16) & 1u)) & 0xffff0000u;
    return (rounded & 0x7f800000u) == 0 ? uint16_t{0} : static_cast<uint16_t>(rounded >> 16);
  }

  struct Norms {
    double value = 0, rounded = 0, rest = 0;  // squared: of x, of x', of x - x'
  };
  static RE_INLINE Norms narrow_row(const float* row, int64_t d, uint16_t* out) {
    Norms norms;
    double value[8] = {}, rounded[8] = {}, rest[8] = {};
    int64_t j = 0;
    for (; j + 8 <= d; j += 8)
      for (int l = 0; l < 8; ++l) {
        const uint16_t h = narrow(row[j + l]);
        const double x = row[j + l], r = widen(h), e = x - r;
        out[j + l] = h;
        value[l] += x * x;
        rounded[l] += r * r;
        rest[l] += e * e;
      }
    for (; j < d; ++j) {
      const uint16_t h = narrow(row[j]);
      const double x = row[j], r = widen(h), e = x - r;
      out[j] = h;
      value[0] += x * x;
      rounded[0] += r * r;
      rest[0] += e * e;
    }
    for (int l = 0; l < 8; ++l) {
      norms.value += value[l];
      norms.rounded += rounded[l];
      norms.rest += rest[l];
    }
    return norms;
  }

  // Head: for each lane |q'| and |q - q'| + rounding |q|.
  static void pack_group(const Task& task, int64_t first, int64_t n, float* row, char* out) {
    const int64_t d = task.queries.cols, s = steps(d);
    std::memset(out, 0, static_cast<size_t>(group_bytes(d)));
    float* head = reinterpret_cast<float*>(out);
    uint16_t* dst = reinterpret_cast<uint16_t*>(out + GROUP_HEAD);
    uint16_t* half = reinterpret_cast<uint16_t*>(row + s * 32);
    for (int64_t u = 0; u < n; ++u) {
      read_row(task.queries, first + u, row);
      const Norms norms = narrow_row(row, d, half);
      head[u] = above(__builtin_sqrt(norms.rounded));
      head[32 + u] = above(__builtin_sqrt(norms.rest) + rounding(d) * __builtin_sqrt(norms.value));
      for (int64_t j = 0; j < d; ++j)
        dst[(j / 32) * 1024 + (u / 16) * 512 + (j % 32) / 2 * 32 + (u % 16) * 2 + j % 2] = half[j];
    }
  }

  // Head: max |x - x'|, max |x|, rounding max |bias| + what underflow can lose, whether
  // there are biases; from 16 on the biases.
  static void pack_tile(const Task& task, int64_t first, int64_t n, float* row, char* out) {
    const int64_t d = task.items.cols, s = steps(d);
    float* head = reinterpret_cast<float*>(out);
    uint16_t* dst = reinterpret_cast<uint16_t*>(out + TILE_HEAD);
    uint16_t* half = reinterpret_cast<uint16_t*>(row + s * 32);
    std::memset(out, 0, TILE_HEAD);
    if (n < ROWS) std::memset(dst, 0, static_cast<size_t>(s * 2048));
    std::memset(half, 0, static_cast<size_t>(s * 64));
    double value = 0, rest = 0, bias = 0;
    for (int64_t i = 0; i < n; ++i) {
      read_row(task.items, first + i, row);
      const Norms norms = narrow_row(row, d, half);
      value = norms.value > value ? norms.value : value;
      rest = norms.rest > rest ? norms.rest : rest;
      if (task.bias) {
        head[16 + i] = task.bias[first + i];
        const double size = __builtin_fabs(static_cast<double>(head[16 + i]));
        bias = size > bias && size < 1e38 ? size : bias;
      }
      for (int64_t k = 0; k < s; ++k) std::memcpy(dst + k * 1024 + i * 32, half + k * 32, 64);
    }
    head[0] = above(__builtin_sqrt(rest));
    head[1] = above(__builtin_sqrt(value));
    head[3] = task.bias ? 1.f : 0.f;
    head[2] = above(rounding(d) * bias + static_cast<double>(8 * d) * 0x1p-126);
  }

  static RE_INLINE Floors slack(const char* group, const char* tile) {
    const float *g = reinterpret_cast<const float*>(group), *t = reinterpret_cast<const float*>(tile);
    const vf rest = splat(t[0] * 1.000001f), norm = splat(t[1] * 1.000001f), other = splat(t[2]);
    return {load(g) * rest + load(g + 32) * norm + other, load(g + 16) * rest + load(g + 48) * norm + other};
  }
  static RE_INLINE Floors floors(const char* group, const char* tile, Floors exact) {
    const Floors s = slack(group, tile);
    return {keep_max(splat(LOWEST), exact.low - s.low), keep_max(splat(LOWEST), exact.high - s.high)};
  }

  static RE_INLINE uint32_t score(const char* group, const char* tile, int64_t d, float* out, Floors floor) {
    const float* head = reinterpret_cast<const float*>(tile);
    tile_product(steps(d), reinterpret_cast<const uint16_t*>(tile + TILE_HEAD),
                 reinterpret_cast<const uint16_t*>(group + GROUP_HEAD), out);
    if (head[3] != 0)  // biased: adding them costs as much as finding the maxima
      for (int i = 0; i < ROWS; ++i) {
        float* p = out + i * LANES;
        store(p, load(p) + head[16 + i]);
        store(p + 16, load(p + 16) + head[16 + i]);
      }
    vf best[4];
    for (vf& b : best) b = splat(-INF);
    for (int i = 0; i < ROWS; i += 2)
      for (int r = 0; r < 2; ++r) {
        const float* p = out + (i + r) * LANES;
        best[2 * r] = keep_max(best[2 * r], load(p));
        best[2 * r + 1] = keep_max(best[2 * r + 1], load(p + 16));
      }
    return lanes_at_least(keep_max(best[0], best[2]), floor.low) |
           lanes_at_least(keep_max(best[1], best[3]), floor.high) << 16;
  }
};
#endif

}  // namespace KERN_NS
