// Results of many megabytes on pages of two: a fresh one is faulted in 4 kB at a time otherwise, which can cost as
// much as the kernel that fills it.
#pragma once

#include <cstdint>

#include "common/checks.h"
#include "common/worker_memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace recengine {

inline constexpr uintptr_t LARGE_PAGE = uintptr_t{1} << 21;

// Advice only: where the system has no large pages nothing changes.
inline void advise_large_pages(const void* begin, uintptr_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto at = reinterpret_cast<uintptr_t>(begin);
  const uintptr_t first = (at + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE, last = (at + bytes) / LARGE_PAGE * LARGE_PAGE;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)begin, (void)bytes;
#endif
}

// The tensor itself, just allocated.
inline Tensor on_large_pages(Tensor t) {
  const uintptr_t bytes = static_cast<uintptr_t>(t.numel()) * static_cast<uintptr_t>(t.element_size());
  if (bytes >= 2 * LARGE_PAGE) advise_large_pages(t.const_data_ptr(), bytes);
  return t;
}

// worker_memory on large pages: what has to stay in the second-level cache does so for certain only on these, because small
// ones lie anywhere and meet in its sets.
inline float* large_worker_memory(int64_t floats) {
  thread_local WorkerMemory memory;
  return memory.at_least(floats, LARGE_PAGE, advise_large_pages);
}

}  // namespace recengine
