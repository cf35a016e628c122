#include "common/isa.h"

#include <cstdlib>
#include <cstring>

#include "common/amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

// Units beyond plain AVX-512 are used unless the environment asks for something by name; `unit` is the name of the one
// in question.
bool beyond_avx512(const char* unit) {
  if (isa() != Isa::avx512) return false;
  const char* asked = std::getenv("RECENGINE_ISA");
  return !asked || !std::strcmp(asked, unit);
}

bool detect_bf16_dots() {
  if (!beyond_avx512("avx512_bf16")) return false;
#if defined(__x86_64__) && defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5) != 0;
#else
  return false;
#endif
}

bool detect_amx() {
  if (!beyond_avx512("amx")) return false;
#if defined(__x86_64__) && defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const unsigned needed = 1u << 22 | 1u << 24 | 1u << 25;  // bf16 products, tiles, int8 products
  if ((d & needed) != needed) return false;
  // The tile registers are off until a process asks for them.
  const long request = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
  return false;
#endif
}

}  // namespace

bool amx_live() {
  static const bool live = detect_amx();
  return live;
}

bool bf16_dots_live() {
  static const bool live = detect_bf16_dots();
  return live;
}

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
