// The product of blocks (bf16_gemm.h) by dot products of bf16 pairs (AVX512_BF16): processors that have those, but no
// matrix tiles. Twice the rate of float32; so operands take one part each, what is bfloat16 between two products, too.
// Written as assembly for the same reason as amx.h.
#pragma once

#include "common/bf16_gemm.h"

#ifdef RECENGINE_AMX

namespace KERN_NS {

struct Bf16Dots {
  struct Scope {
    Scope() {}  // nothing to hold
  };
  static constexpr int BETWEEN = 1;

  // sum[lane] += a pair of a times a pair of b.
  static RE_INLINE void dot(vf& sum, vf a, vf b) { asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b)); }

  // As Bf16Tiles::product. Rows are taken eight at a time, so that their sums stay in registers; nothing is free meanwhile,
  // what is to be done beside the product follows it.
  template <int LEFT, int RIGHT, bool ADD, class Beside>
  static RE_INLINE void product(int64_t steps, const float* A, const float* B, float* C, int64_t ldc, Beside&& beside) {
    static_assert(LEFT == 1 && RIGHT == 1);
    for (int64_t row = 0; row < BLOCK; row += ROWS) eight_rows<ADD>(steps, A + row * W, B, C + row * ldc, ldc);
    for (int64_t s = 0; s < steps; ++s) beside();
  }

 private:
  static constexpr int ROWS = 8;

  template <bool ADD>
  static __attribute__((noinline)) void eight_rows(int64_t steps, const float* A, const float* B, float* C, int64_t ldc) {
    vf sum[ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
      for (int c = 0; c < 2; ++c) sum[i][c] = ADD ? load(C + i * ldc + c * W) : vf{};
    for (int64_t s = 0; s < steps; ++s, A += BLOCK_WORDS, B += BLOCK_WORDS)
#pragma GCC unroll 2
      for (int k = 0; k < W; ++k) {
        const vf b0 = load(B + k * W), b1 = load(B + (W + k) * W);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; ++i) {
          const vf a = _mm512_set1_ps(A[i * W + k]);
          dot(sum[i][0], a, b0);
          dot(sum[i][1], a, b1);
        }
      }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
      for (int c = 0; c < 2; ++c) store(C + i * ldc + c * W, sum[i][c]);
  }
};

}  // namespace KERN_NS
#endif
