// Working memory of one thread: grows, is kept for the next call, 64-byte aligned. For launchers; the
// kernels get a pointer.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace recengine {

inline float* worker_memory(int64_t floats) {
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<float, Free> memory;
  thread_local int64_t capacity = 0;
  if (floats > capacity) {
    const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + 63) / 64 * 64;
    memory.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    if (!memory) throw std::bad_alloc();
    capacity = floats;
  }
  return memory.get();
}

}  // namespace recengine
