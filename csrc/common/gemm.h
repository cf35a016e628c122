// The GEMM micro-kernel that every family stands on, and the packing it reads. Tile sizes are
// constants of the instruction set: 12 x 32 on AVX-512, 6 x 16 on AVX2, 6 x 8 on the baseline (a
// wrong tile spills and costs a factor of fifty).
//
// A panel: [K][MR] (MR rows side by side). B panel: [K][NR]. Rows or columns that do not exist are
// zero in the panel, so the micro-kernel never branches.
#pragma once

#include "common/vec.h"

namespace KERN_NS {

inline constexpr int MR = W == 16 ? 12 : 6;
inline constexpr int NV = 2;       // vectors a row of the tile
inline constexpr int NR = NV * W;  // columns of the tile

// B given as rows of K (K x N, row stride ldb): ceil(N/NR) panels of [K][NR].
RE_INLINE void pack_b(const float* B, int64_t ldb, int64_t K, int64_t N, float* dst) {
  for (int64_t j = 0; j < N; j += NR) {
    const int64_t n = N - j < NR ? N - j : NR;
    for (int64_t k = 0; k < K; ++k, dst += NR) {
      const float* src = B + k * ldb + j;
      if (n == NR) {
        store(dst, load(src));
        store(dst + W, load(src + W));
      } else {
        for (int64_t x = 0; x < NR; ++x) dst[x] = x < n ? src[x] : 0.f;
      }
    }
  }
}

// B given by columns (N rows of K, as an item table is): the same panels.
RE_INLINE void pack_b_t(const float* Bt, int64_t ld, int64_t K, int64_t N, float* dst) {
  for (int64_t j = 0; j < N; j += NR, dst += K * NR) {
    const int64_t n = N - j < NR ? N - j : NR;
    for (int64_t x = 0; x < NR; ++x) {
      const float* src = Bt + (j + x) * ld;
      if (x < n)
        for (int64_t k = 0; k < K; ++k) dst[k * NR + x] = src[k];
      else
        for (int64_t k = 0; k < K; ++k) dst[k * NR + x] = 0.f;
    }
  }
}

// A: rows[i] points to K contiguous floats, m <= MR rows exist.
RE_INLINE void pack_a(const float* const* rows, int m, int64_t K, float* dst) {
  for (int i = 0; i < MR; ++i)
    for (int64_t k = 0; k < K; ++k) dst[k * MR + i] = i < m ? rows[i][k] : 0.f;
}

// acc[i][v] = sum_k A[k][i] * B[k][v*W ...]; ep(i, acc[i][0], acc[i][1]) consumes row i.
template <class Epilogue>
RE_INLINE void micro(int64_t K, const float* A, const float* B, Epilogue&& ep) {
  vf c0[MR], c1[MR];
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) c0[i] = c1[i] = vf{};
  for (int64_t k = 0; k < K; ++k, A += MR, B += NR) {
    const vf b0 = load(B), b1 = load(B + W);
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i) {
      const vf a = splat(A[i]);
      c0[i] += a * b0;
      c1[i] += a * b1;
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) ep(i, c0[i], c1[i]);
}

// The same with the operand A where it lies: A(i, k) = A[i * AI + k * AK], strides known when compiled.
template <int AI, int AK, class Epilogue>
RE_INLINE void micro_in_place(int64_t K, const float* A, const float* B, Epilogue&& ep) {
  vf c0[MR], c1[MR];
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) c0[i] = c1[i] = vf{};
  for (int64_t k = 0; k < K; ++k, A += AK, B += NR) {
    const vf b0 = load(B), b1 = load(B + W);
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i) {
      const vf a = splat(A[i * AI]);
      c0[i] += a * b0;
      c1[i] += a * b1;
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) ep(i, c0[i], c1[i]);
}

// The same with A in segments of KS steps, a_step apart, and B in one piece: A(i, k) of a segment is
// A[i * AI + k]. A panel of rows read so is a panel of columns: its own transpose.
template <int AI, int KS, class Epilogue>
RE_INLINE void micro_segments(int64_t segments, const float* A, int64_t a_step, const float* B, Epilogue&& ep) {
  vf c0[MR], c1[MR];
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) c0[i] = c1[i] = vf{};
  for (int64_t s = 0; s < segments; ++s, A += a_step)
    for (int k = 0; k < KS; ++k, B += NR) {
      const vf b0 = load(B), b1 = load(B + W);
#pragma GCC unroll 12
      for (int i = 0; i < MR; ++i) {
        const vf a = splat(A[i * AI + k]);
        c0[i] += a * b0;
        c1[i] += a * b1;
      }
    }
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) ep(i, c0[i], c1[i]);
}

// The same with A as rows of K, `step` floats apart: A(i, k) = A[i * step + k]. Rows are read through a pointer for every
// four of them, so that addresses take few registers.
template <class Epilogue>
RE_INLINE void micro_rows(int64_t K, const float* A, int64_t step, const float* B, Epilogue&& ep) {
  constexpr int FOURS = (MR + 3) / 4;
  vf c0[MR], c1[MR];
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) c0[i] = c1[i] = vf{};
  const float* row[FOURS];
#pragma GCC unroll 3
  for (int f = 0; f < FOURS; ++f) row[f] = A + 4 * f * step;
  for (int64_t k = 0; k < K; ++k, B += NR) {
    const vf b0 = load(B), b1 = load(B + W);
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i) {
      const vf a = splat(row[i / 4][i % 4 * step]);
      c0[i] += a * b0;
      c1[i] += a * b1;
    }
#pragma GCC unroll 3
    for (int f = 0; f < FOURS; ++f) ++row[f];
  }
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) ep(i, c0[i], c1[i]);
}

// The same with A across: A(i, k) = A[i + k * step].
template <class Epilogue>
RE_INLINE void micro_across(int64_t K, const float* A, int64_t step, const float* B, Epilogue&& ep) {
  vf c0[MR], c1[MR];
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) c0[i] = c1[i] = vf{};
  for (int64_t k = 0; k < K; ++k, A += step, B += NR) {
    const vf b0 = load(B), b1 = load(B + W);
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i) {
      const vf a = splat(A[i]);
      c0[i] += a * b0;
      c1[i] += a * b1;
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i) ep(i, c0[i], c1[i]);
}

// The products as functions of their own, for tiles in memory: where a kernel's other work is compiled into
// the same function, its constants take registers from the accumulators and the inner loop spills.
#define RE_NOINLINE __attribute__((noinline, unused)) static

// C[MR][NR] = A B with A as rows (micro_rows), rows of C ldc apart.
RE_NOINLINE void tile_rows(int64_t K, const float* A, int64_t step, const float* B, float* C, int64_t ldc) {
  micro_rows(K, A, step, B, [&](int i, vf x, vf y) {
    store(C + i * ldc, x);
    store(C + i * ldc + W, y);
  });
}

// C[MR][NR] = A B with A across (micro_across), rows of C ldc apart.
RE_NOINLINE void tile_across(int64_t K, const float* A, int64_t step, const float* B, float* C, int64_t ldc) {
  micro_across(K, A, step, B, [&](int i, vf x, vf y) {
    store(C + i * ldc, x);
    store(C + i * ldc + W, y);
  });
}

// C += A B with A where it lies (micro_in_place).
template <int AI, int AK>
RE_NOINLINE void tile_add_in_place(int64_t K, const float* A, const float* B, float* C, int64_t ldc) {
  micro_in_place<AI, AK>(K, A, B, [&](int i, vf x, vf y) {
    store(C + i * ldc, load(C + i * ldc) + x);
    store(C + i * ldc + W, load(C + i * ldc + W) + y);
  });
}

// C (+)= A B with A in segments (micro_segments).
template <int AI, int KS, bool ADD>
RE_NOINLINE void tile_segments(int64_t segments, const float* A, int64_t a_step, const float* B, float* C, int64_t ldc) {
  micro_segments<AI, KS>(segments, A, a_step, B, [&](int i, vf x, vf y) {
    float* to = C + i * ldc;
    store(to, ADD ? load(to) + x : x);
    store(to + W, ADD ? load(to + W) + y : y);
  });
}

}  // namespace KERN_NS
