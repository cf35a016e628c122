#include "common/large_blocks.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace recengine {
namespace {

constexpr size_t LARGE_PAGE = size_t{1} << 21, PAGE = size_t{1} << 12;

#if defined(__linux__)

void* map(size_t bytes) {
  const size_t all = bytes + LARGE_PAGE;
  void* begin = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (begin == MAP_FAILED) return nullptr;
  const auto at = reinterpret_cast<uintptr_t>(begin);
  const uintptr_t first = (at + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
  if (first > at) munmap(begin, first - at);
  if (at + all > first + bytes) munmap(reinterpret_cast<void*>(first + bytes), at + all - first - bytes);
#ifdef MADV_HUGEPAGE
  madvise(reinterpret_cast<void*>(first), bytes / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);
#endif
  return reinterpret_cast<void*>(first);
}
void unmap(void* at, size_t bytes) { munmap(at, bytes); }
void offer(void* at, size_t bytes) {
#ifdef MADV_FREE
  madvise(at, bytes, MADV_FREE);  // refused by an old system: then it stays ours
#else
  (void)at, (void)bytes;
#endif
}

#else

void* map(size_t) { return nullptr; }
void unmap(void*, size_t) {}
void offer(void*, size_t) {}

#endif

}  // namespace

LargeBlocks::LargeBlocks() {
  const char* keep = std::getenv("RECENGINE_KEEP_MEMORY");
  keep_ = !keep || std::strcmp(keep, "0") != 0;
}

LargeBlocks& LargeBlocks::shared() {
  static LargeBlocks& blocks = *new LargeBlocks;
  return blocks;
}

LargeBlocks::Block LargeBlocks::take(size_t bytes) {
  bytes = (bytes + PAGE - 1) / PAGE * PAGE;
  const std::unique_lock held(lock_, std::try_to_lock);
  if (!held || !keep_) return {};
  Block block = reuse(bytes);
  if (!block.at) {
    make_room(bytes);
    block = {map(bytes), bytes};
    if (!block.at) return {};
  }
  used_ += block.bytes;
  most_ = std::max<size_t>(most_, used_);
  return block;
}

// The smallest free block that serves without a waste of more than an eighth.
LargeBlocks::Block LargeBlocks::reuse(size_t bytes) {
  auto best = free_.end();
  for (auto block = free_.begin(); block != free_.end(); ++block)
    if (block->bytes >= bytes && block->bytes <= bytes + bytes / 8 && (best == free_.end() || block->bytes < best->bytes)) best = block;
  if (best == free_.end()) return {};
  const Block block = *best;
  free_.erase(best);
  free_bytes_ -= block.bytes;
  return block;
}

// For a new block of so many bytes.
void LargeBlocks::make_room(size_t bytes) {
  auto last = free_.begin();
  for (; last != free_.end() && used_ + free_bytes_ + bytes > most_ + most_ / 2; ++last) {
    unmap(last->at, last->bytes);
    free_bytes_ -= last->bytes;
  }
  free_.erase(free_.begin(), last);
}

void LargeBlocks::give(const Block& block) {
  used_ -= block.bytes;
  const std::unique_lock held(lock_, std::try_to_lock);
  if (!held || !keep_) return unmap(block.at, block.bytes);
  offer(block.at, block.bytes);
  free_.push_back(block);
  free_bytes_ += block.bytes;
}

bool LargeBlocks::keep(bool on) {
  const std::lock_guard held(lock_);
  for (const Block& block : free_) unmap(block.at, block.bytes);
  free_.clear();
  free_bytes_ = most_ = 0;
  return std::exchange(keep_, on);
}

}  // namespace recengine
