// The product of blocks (bf16_gemm.h) on the processor's matrix tiles (amx.h).
#pragma once

#include "common/amx.h"
#include "common/bf16_gemm.h"

#ifdef RECENGINE_AMX

namespace KERN_NS {

#define RE_LOAD(tile, from, at) "tileloadd " #at "(%" #from ",%2,1), %%tmm" #tile "\n\t"
#define RE_DOT(sum, a, b) "tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum "\n\t"
// The next part of the left (right) operand against what the other's tiles hold.
#define RE_NEXT_LEFT(at, at2) \
  RE_LOAD(4, 0, at) RE_DOT(0, 4, 6) RE_DOT(1, 4, 7) RE_LOAD(5, 0, at2) RE_DOT(2, 5, 6) RE_DOT(3, 5, 7)
#define RE_NEXT_RIGHT(at, at2) \
  RE_LOAD(6, 1, at) RE_DOT(0, 4, 6) RE_DOT(2, 5, 6) RE_LOAD(7, 1, at2) RE_DOT(1, 4, 7) RE_DOT(3, 5, 7)
#define RE_FIRST                                                                                             \
  RE_LOAD(4, 0, 0) RE_LOAD(6, 1, 0) RE_DOT(0, 4, 6) RE_LOAD(5, 0, 1024) RE_DOT(2, 5, 6) RE_LOAD(7, 1, 1024)   \
  RE_DOT(1, 4, 7) RE_DOT(3, 5, 7)

struct Bf16Tiles {
  using Scope = TileScope;           // held by a thread while it multiplies
  static constexpr int BETWEEN = 2;  // parts of what lies between two products of bfloat16 operands: tiles have them to spare

  // C[32][32] (+)= A B over `steps` blocks; rows of C are ldc floats apart. beside() is called once a step: the tiles
  // work for hundreds of cycles on what a step gives them, and the vector units are free meanwhile.
  template <int LEFT, int RIGHT, bool ADD, class Beside>
  static RE_INLINE void product(int64_t steps, const float* A, const float* B, float* C, int64_t ldc, Beside&& beside) {
    const int64_t row = 4 * ldc, line = 64;
    if (ADD)
      asm volatile(
          "tileloadd (%0,%2,1), %%tmm0\n\t"
          "tileloadd 64(%0,%2,1), %%tmm1\n\t"
          "tileloadd (%1,%2,1), %%tmm2\n\t"
          "tileloadd 64(%1,%2,1), %%tmm3" ::"r"(C),
          "r"(C + 16 * ldc), "r"(row)
          : "memory");
    else
      asm volatile("tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3" ::: "memory");
    for (int64_t s = 0; s < steps; ++s, A += LEFT * BLOCK_WORDS, B += RIGHT * BLOCK_WORDS) {
      if constexpr (LEFT == 3 && RIGHT == 3)
        asm volatile(RE_FIRST RE_NEXT_LEFT(4096, 5120) RE_NEXT_LEFT(2048, 3072) RE_NEXT_RIGHT(2048, 3072)
                         RE_NEXT_LEFT(0, 1024) RE_NEXT_RIGHT(4096, 5120)::"r"(A),
                     "r"(B), "r"(line)
                     : "memory");
      else if constexpr (LEFT == 2 && RIGHT == 1)
        asm volatile(RE_FIRST RE_NEXT_LEFT(2048, 3072)::"r"(A), "r"(B), "r"(line) : "memory");
      else if constexpr (LEFT == 1 && RIGHT == 2)
        asm volatile(RE_FIRST RE_NEXT_RIGHT(2048, 3072)::"r"(A), "r"(B), "r"(line) : "memory");
      else {
        static_assert(LEFT * RIGHT == 1 || LEFT == 3 || LEFT * RIGHT == 2);
        asm volatile(RE_FIRST ::"r"(A), "r"(B), "r"(line) : "memory");
      }
      if constexpr (LEFT == 3 && RIGHT == 3) {
        // Panels of right operands pass by, one behind the other, and are too many for the first-level cache.
        constexpr int LINE = 16;
#pragma GCC unroll 16
        for (int i = 0; i < RIGHT * BLOCK_WORDS; i += LINE)
          _mm_prefetch(reinterpret_cast<const char*>(B + RIGHT * BLOCK_WORDS + i), _MM_HINT_T0);
      }
      beside();
    }
    asm volatile(
        "tilestored %%tmm0, (%0,%2,1)\n\t"
        "tilestored %%tmm1, 64(%0,%2,1)\n\t"
        "tilestored %%tmm2, (%1,%2,1)\n\t"
        "tilestored %%tmm3, 64(%1,%2,1)" ::"r"(C),
        "r"(C + 16 * ldc), "r"(row)
        : "memory");
  }
};

#undef RE_LOAD
#undef RE_DOT
#undef RE_NEXT_LEFT
#undef RE_NEXT_RIGHT
#undef RE_FIRST

}  // namespace KERN_NS
#endif
