// The processor's bf16 matrix tiles (AMX), as far as the kernels need them: eight tiles of 16 rows of
// 64 bytes. Written as assembly, so that one object compiled for plain AVX-512 can hold them; whether
// they may run is asked at run time (amx_live).
#pragma once

#include <cstdint>

namespace recengine {

// Whether processor and operating system let this process use bf16 tiles (asks the system once).
// Off below AVX-512, and with RECENGINE_ISA=avx512_bf16, avx512, avx2 or baseline.
bool amx_live();

// Whether the processor multiplies vectors of bf16 pairs (AVX512_BF16; bf16_dots.h). Off below AVX-512, and with
// RECENGINE_ISA=avx512, avx2 or baseline.
bool bf16_dots_live();

}  // namespace recengine

#if defined(__AVX512F__) && defined(__x86_64__)
#define RECENGINE_AMX 1

namespace KERN_NS {

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Holds this thread's tile configuration while it lives.
struct TileScope {
  TileScope() {
    const TileShapes shapes;
    asm volatile("ldtilecfg %0" ::"m"(shapes));
  }
  ~TileScope() { asm volatile("tilerelease" ::: "memory"); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

// C[32][32] = A B over `steps` of 32 elements. A: [steps][2][16 rows][32 bf16]; B: [steps][2][16 pairs
// of elements][16 columns][2 bf16]; C: float32, rows of 32. Accumulates in float32.
__attribute__((always_inline)) inline void tile_product(int64_t steps, const uint16_t* A, const uint16_t* B, float* C) {
  asm volatile("tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3" ::: "memory");
  const int64_t line = 64, row = 128;
  for (int64_t s = 0; s < steps; ++s, A += 1024, B += 1024) {
    asm volatile(
        "tileloadd (%0,%2,1), %%tmm4\n\t"
        "tileloadd (%1,%2,1), %%tmm6\n\t"
        "tileloadd 1024(%1,%2,1), %%tmm7\n\t"
        "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\t"
        "tileloadd 1024(%0,%2,1), %%tmm5\n\t"
        "tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n\t"
        "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n\t"
        "tdpbf16ps %%tmm7, %%tmm5, %%tmm3" ::"r"(A),
        "r"(B), "r"(line)
        : "memory");
  }
  asm volatile(
      "tilestored %%tmm0, (%0,%1,1)\n\t"
      "tilestored %%tmm1, 64(%0,%1,1)\n\t"
      "tilestored %%tmm2, 2048(%0,%1,1)\n\t"
      "tilestored %%tmm3, 2112(%0,%1,1)" ::"r"(C),
      "r"(row)
      : "memory");
}

}  // namespace KERN_NS
#endif
