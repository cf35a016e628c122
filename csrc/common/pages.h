// Results of many megabytes on pages of two: a fresh one is faulted in 4 kB at a time otherwise, which can cost as
// much as the kernel that fills it.
#pragma once

#include <cstdint>

#include "common/checks.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace recengine {

// The tensor itself, just allocated. Advice only: where the system has no large pages nothing changes.
inline Tensor on_large_pages(Tensor t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = uintptr_t{1} << 21;
  const auto begin = reinterpret_cast<uintptr_t>(t.const_data_ptr());
  const uintptr_t bytes = static_cast<uintptr_t>(t.numel()) * static_cast<uintptr_t>(t.element_size());
  const uintptr_t first = (begin + page - 1) / page * page, last = (begin + bytes) / page * page;
  if (bytes >= 2 * page && first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return t;
}

}  // namespace recengine
