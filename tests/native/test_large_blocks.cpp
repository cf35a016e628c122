// Memory that is kept: what threads do to each other's blocks, what is reused, and what goes back.
#include "common/large_blocks.h"

#include <atomic>

#include "native_test.h"

namespace {

using recengine::LargeBlocks;
using native::expect;

constexpr size_t MB = size_t{1} << 20;

// Writes a mark into every page, and finds it there.
void mark(const LargeBlocks::Block& block, unsigned char with) {
  auto* at = static_cast<volatile unsigned char*>(block.at);
  for (size_t i = 0; i < block.bytes; i += 4096) at[i] = with;
  at[block.bytes - 1] = with;
}
bool marked(const LargeBlocks::Block& block, unsigned char with) {
  const auto* at = static_cast<volatile unsigned char*>(block.at);
  for (size_t i = 0; i < block.bytes; i += 4096)
    if (at[i] != with) return false;
  return at[block.bytes - 1] == with;
}
bool begins_on_a_large_page(const LargeBlocks::Block& block) { return reinterpret_cast<uintptr_t>(block.at) % (2 * MB) == 0; }

NATIVE_TEST(threads_never_hold_the_same_block) {
  LargeBlocks& blocks = LargeBlocks::shared();
  std::atomic<int> got = 0, wrong = 0;
  const auto work = [&](unsigned char own) {
    std::mt19937 random(own);
    std::vector<LargeBlocks::Block> held;
    for (int step = 0; step < 400; ++step) {
      if (held.size() < 3 && random() % 2) {
        const size_t bytes = (2 + random() % 4) * MB + random() % 5000;
        const LargeBlocks::Block block = blocks.take(bytes);
        if (!block.at) continue;  // another thread held the lock
        got += 1;
        wrong += block.bytes < bytes || !begins_on_a_large_page(block);
        mark(block, own);
        held.push_back(block);
      } else if (!held.empty()) {
        wrong += !marked(held.back(), own);
        blocks.give(held.back());
        held.pop_back();
      }
    }
    for (const auto& block : held) {
      wrong += !marked(block, own);
      blocks.give(block);
    }
  };
  std::vector<std::thread> threads;
  for (unsigned char own = 1; own <= 4; ++own) threads.emplace_back(work, own);
  threads.emplace_back([&] {  // who switches it off and on meanwhile
    for (int step = 0; step < 50; ++step) blocks.keep(step % 2 == 0), std::this_thread::yield();
    blocks.keep(true);
  });
  for (auto& thread : threads) thread.join();
  expect(got > 0, "no thread ever got a block");
  expect(wrong == 0, "a block was too small, off its page or written by another thread");
}

NATIVE_TEST(what_was_given_is_taken_again_where_it_fits) {
  LargeBlocks& blocks = LargeBlocks::shared();
  blocks.keep(false);
  expect(!blocks.take(4 * MB).at, "a block was handed out while switched off");
  expect(!blocks.keep(true), "keep() does not say what was");
  const auto first = blocks.take(8 * MB);
  expect(first.at, "no block");
  blocks.give(first);
  const auto again = blocks.take(8 * MB - 5000);
  expect(again.at == first.at && again.bytes == first.bytes, "a free block of the size was not reused");
  const auto small = blocks.take(2 * MB);
  expect(small.at && small.at != again.at, "a block was handed out twice");
  blocks.give(again);
  const auto other = blocks.take(4 * MB);
  expect(other.at && other.at != again.at, "a block of twice the size was wasted on a small one");
  mark(small, 7), mark(other, 9);
  expect(marked(small, 7) && marked(other, 9), "blocks overlap");
  blocks.give(small);
  blocks.give(other);
  expect(blocks.keep(true), "keep() does not say what was");
}

}  // namespace
