// Results of many megabytes on pages of two: a fresh one is faulted in 4 kB at a time otherwise, which can cost as
// much as the kernel that fills it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "common/checks.h"

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

// worker_memory (worker_memory.h) on large pages: what has to stay in the second-level cache does so for certain only on
// these, because small ones lie anywhere and meet in its sets.
inline float* large_worker_memory(int64_t floats) {
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<float, Free> memory;
  thread_local int64_t capacity = 0;
  if (floats > capacity) {
    const uintptr_t bytes = (static_cast<uintptr_t>(floats) * sizeof(float) + LARGE_PAGE) / LARGE_PAGE * LARGE_PAGE;
    memory.reset();
    capacity = 0;
    memory.reset(static_cast<float*>(std::aligned_alloc(LARGE_PAGE, bytes)));
    if (!memory) throw std::bad_alloc();
    advise_large_pages(memory.get(), bytes);
    capacity = floats;
  }
  return memory.get();
}

}  // namespace recengine
