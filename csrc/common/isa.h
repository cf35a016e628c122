// Which of the three builds of a kernel runs: chosen once per process from the processor, or by the
// environment variable RECENGINE_ISA (baseline | avx2 | avx512), never above what the processor has. What some processors
// have beyond AVX-512 (avx512_bf16, amx: amx.h) the kernels of that build ask for themselves.
#pragma once

namespace recengine {

enum class Isa { baseline, avx2, avx512 };

Isa isa();
const char* isa_name();

}  // namespace recengine

// RECENGINE_PICK(fn): the fn of the live instruction set; fn is declared in namespaces baseline,
// avx2 and avx512 (RECENGINE_DECLARE writes the three).
#define RECENGINE_PICK(fn)                                         \
  (::recengine::isa() == ::recengine::Isa::avx512 ? &avx512::fn    \
   : ::recengine::isa() == ::recengine::Isa::avx2 ? &avx2::fn      \
                                                  : &baseline::fn)

#define RECENGINE_DECLARE(...) \
  namespace baseline {         \
  __VA_ARGS__                  \
  }                            \
  namespace avx2 {             \
  __VA_ARGS__                  \
  }                            \
  namespace avx512 {           \
  __VA_ARGS__                  \
  }
