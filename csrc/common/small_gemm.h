// Products of matrices that are in cache already, A with any strides (so A and its transpose cost the
// same), B with rows of N contiguous floats. No packing: the operands are tiles of a larger loop.
#pragma once

#include "common/vec.h"

namespace KERN_NS {

inline constexpr int SMALL_MR = W == 16 ? 8 : 4;

template <int ROWS, int VECS, bool ACCUMULATE>
RE_INLINE void small_tile(int64_t K, const float* A, int64_t a_row, int64_t a_col, const float* B, int64_t ldb,
                          float* C, int64_t ldc) {
  vf c[ROWS][VECS];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < VECS; ++j) c[i][j] = ACCUMULATE ? load(C + i * ldc + j * W) : vf{};
  for (int64_t k = 0; k < K; ++k) {
    vf b[VECS];
#pragma GCC unroll 2
    for (int j = 0; j < VECS; ++j) b[j] = load(B + k * ldb + j * W);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
      const vf a = splat(A[i * a_row + k * a_col]);
#pragma GCC unroll 2
      for (int j = 0; j < VECS; ++j) c[i][j] += a * b[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < VECS; ++j) store(C + i * ldc + j * W, c[i][j]);
}

template <int VECS, bool ACCUMULATE>
RE_INLINE void small_rows(int64_t M, int64_t K, const float* A, int64_t a_row, int64_t a_col, const float* B,
                          int64_t ldb, float* C, int64_t ldc) {
  int64_t i = 0;
  for (; i + SMALL_MR <= M; i += SMALL_MR)
    small_tile<SMALL_MR, VECS, ACCUMULATE>(K, A + i * a_row, a_row, a_col, B, ldb, C + i * ldc, ldc);
  const float* a = A + i * a_row;
  float* c = C + i * ldc;
  switch (M - i) {
    case 1: small_tile<1, VECS, ACCUMULATE>(K, a, a_row, a_col, B, ldb, c, ldc); break;
    case 2: small_tile<2, VECS, ACCUMULATE>(K, a, a_row, a_col, B, ldb, c, ldc); break;
    case 3: small_tile<3, VECS, ACCUMULATE>(K, a, a_row, a_col, B, ldb, c, ldc); break;
    case 4: small_tile<4, VECS, ACCUMULATE>(K, a, a_row, a_col, B, ldb, c, ldc); break;
    case 5: small_tile<5, VECS, ACCUMULATE>(K, a, a_row, a_col, B, ldb, c, ldc); break;
    case 6: small_tile<6, VECS, ACCUMULATE>(K, a, a_row, a_col, B, ldb, c, ldc); break;
    case 7: small_tile<7, VECS, ACCUMULATE>(K, a, a_row, a_col, B, ldb, c, ldc); break;
    default: break;
  }
}

// C[M, N] (= or +=) A[M, K] B[K, N]; N is a multiple of W.
template <bool ACCUMULATE>
__attribute__((noinline)) inline void small_gemm(int64_t M, int64_t N, int64_t K, const float* A, int64_t a_row,
                                                 int64_t a_col, const float* B, int64_t ldb, float* C, int64_t ldc) {
  int64_t j = 0;
  for (; j + 2 * W <= N; j += 2 * W) small_rows<2, ACCUMULATE>(M, K, A, a_row, a_col, B + j, ldb, C + j, ldc);
  for (; j < N; j += W) small_rows<1, ACCUMULATE>(M, K, A, a_row, a_col, B + j, ldb, C + j, ldc);
}

#if defined(__AVX512F__)
// One 16 x 16 block, in registers: four rounds of pairwise interleaving.
RE_INLINE void transpose_block(const float* src, int64_t lds, float* dst, int64_t ldd) {
  vf r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = load(src + i * lds);
#define RE_LO(a, b) __builtin_shuffle(a, b, (vi){0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29})
#define RE_HI(a, b) __builtin_shuffle(a, b, (vi){2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31})
#define RE_LO2(a, b) __builtin_shuffle(a, b, (vi){0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29})
#define RE_HI2(a, b) __builtin_shuffle(a, b, (vi){2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31})
#define RE_EVEN(a, b) __builtin_shuffle(a, b, (vi){0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27})
#define RE_ODD(a, b) __builtin_shuffle(a, b, (vi){4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31})
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = RE_LO(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = RE_HI(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = RE_LO2(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = RE_HI2(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = RE_LO2(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = RE_HI2(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = RE_EVEN(r[i], r[i + 4]);
    t[i + 4] = RE_ODD(r[i], r[i + 4]);
    t[i + 8] = RE_EVEN(r[i + 8], r[i + 12]);
    t[i + 12] = RE_ODD(r[i + 8], r[i + 12]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    store(dst + i * ldd, RE_EVEN(t[i], t[i + 8]));
    store(dst + (i + 4) * ldd, RE_EVEN(t[i + 4], t[i + 12]));
    store(dst + (i + 8) * ldd, RE_ODD(t[i], t[i + 8]));
    store(dst + (i + 12) * ldd, RE_ODD(t[i + 4], t[i + 12]));
  }
#undef RE_LO
#undef RE_HI
#undef RE_LO2
#undef RE_HI2
#undef RE_EVEN
#undef RE_ODD
}
#endif

// dst[N, M] = src[M, N] transposed; M and N are multiples of 16.
inline void transpose(int64_t M, int64_t N, const float* src, int64_t lds, float* dst, int64_t ldd) {
  for (int64_t i = 0; i < M; i += 16)
    for (int64_t j = 0; j < N; j += 16) {
#if defined(__AVX512F__)
      transpose_block(src + i * lds + j, lds, dst + j * ldd + i, ldd);
#else
      for (int64_t y = 0; y < 16; ++y)
        for (int64_t x = 0; x < 16; ++x) dst[(j + x) * ldd + i + y] = src[(i + y) * lds + j + x];
#endif
    }
}

}  // namespace KERN_NS
