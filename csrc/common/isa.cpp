#include "common/isa.h"

#include <cstdlib>
#include <cstring>

namespace recengine {
namespace {

Isa detect() {
  Isa best = Isa::baseline;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Isa::avx2;
  if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd"))
    best = Isa::avx512;
#endif
  if (const char* asked = std::getenv("RECENGINE_ISA")) {
    if (!std::strcmp(asked, "baseline")) best = Isa::baseline;
    if (!std::strcmp(asked, "avx2") && best == Isa::avx512) best = Isa::avx2;
  }
  return best;
}

}  // namespace

Isa isa() {
  static const Isa live = detect();
  return live;
}

const char* isa_name() {
  switch (isa()) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "baseline";
  }
}

}  // namespace recengine
