// Memory of many megabytes that is kept when its tensor dies and given to the next one of its size.
//
// The system clears every page that it hands out, and what a step of training allocates it frees again: clearing
// results and gradients anew can cost as much as the kernels that fill them. Blocks lie on pages of two megabytes.
#pragma once

#include <atomic>
#include <cstddef>
#include <mutex>
#include <vector>

namespace recengine {

// Never holds more, blocks in use and free ones together, than one and a half times what was once in use at a time (with
// no room to spare, a step whose results die one after another would map some of its blocks anew each time); free blocks
// may be taken back by a system short of memory (MADV_FREE). Thread-safe. Where another thread holds the lock it does without, so that a
// child forked meanwhile does not wait for ever.
class LargeBlocks {
 public:
  struct Block {
    void* at = nullptr;
    size_t bytes = 0;
  };

  // The process's own, which outlives every tensor.
  static LargeBlocks& shared();

  // At least so many bytes on a boundary of a large page, holding anything; `at` is null where there is none to be had.
  Block take(size_t bytes);
  void give(const Block& block);

  // Whether there are any to be had: if not, free ones go back to the system and used ones as soon as they are given.
  // What it was before.
  bool keep(bool on);

 private:
  LargeBlocks();
  Block reuse(size_t bytes);
  void make_room(size_t bytes);

  std::mutex lock_;          // of all but used_
  std::vector<Block> free_;  // the one that has waited longest first
  std::atomic<size_t> used_ = 0;
  size_t free_bytes_ = 0, most_ = 0;
  bool keep_;
};

}  // namespace recengine
