// Results of many megabytes on pages of two: a fresh one is faulted in 4 kB at a time otherwise, and cleared, which can
// cost as much as the kernel that fills it.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <vector>

#include "common/checks.h"
#include "common/large_blocks.h"
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

// A new tensor, contiguous, of anything; large ones on large pages, in memory of tensors that are gone (large_blocks.h).
inline Tensor large_empty(const Tensor& like, std::initializer_list<int64_t> sizes, std::optional<ScalarType> type = std::nullopt) {
  const ScalarType own = type.value_or(like.scalar_type());
  size_t bytes = own == ScalarType::Float ? 4 : own == ScalarType::BFloat16 ? 2 : 0;
  for (const int64_t size : sizes) bytes *= static_cast<size_t>(size);
  if (bytes >= 2 * LARGE_PAGE)
    if (const LargeBlocks::Block block = LargeBlocks::shared().take(bytes); block.at) {
      std::vector<int64_t> strides(sizes.size(), 1);
      for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * sizes.begin()[i];
      return torch::stable::from_blob(block.at, sizes, strides, like.device(), own,
                                      [block](void*) { LargeBlocks::shared().give(block); });
    }
  Tensor fresh = torch::stable::new_empty(like, sizes, own);
  if (bytes >= 2 * LARGE_PAGE) advise_large_pages(fresh.const_data_ptr(), bytes);
  return fresh;
}

// worker_memory on large pages: what has to stay in the second-level cache does so for certain only on these, because small
// ones lie anywhere and meet in its sets.
inline float* large_worker_memory(int64_t floats) {
  thread_local WorkerMemory memory;
  return memory.at_least(floats, LARGE_PAGE, advise_large_pages);
}

}  // namespace recengine
