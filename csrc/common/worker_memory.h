// Working memory of one thread: grows, is kept for the next call. For launchers; the kernels get a pointer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace recengine {

class WorkerMemory {
 public:
  // At least so many floats on a boundary of `alignment` bytes; fresh(data, bytes) is called for memory just taken.
  template <class New>
  float* at_least(int64_t floats, size_t alignment, New&& fresh) {
    if (floats <= capacity_) return memory_.get();
    const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + alignment - 1) / alignment * alignment;
    capacity_ = 0;
    memory_.reset();
    memory_.reset(static_cast<float*>(std::aligned_alloc(alignment, bytes)));
    if (!memory_) throw std::bad_alloc();
    fresh(memory_.get(), bytes);
    capacity_ = floats;
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> memory_;
  int64_t capacity_ = 0;
};

// On a cache line.
inline float* worker_memory(int64_t floats) {
  thread_local WorkerMemory memory;
  return memory.at_least(floats, 64, [](void*, size_t) {});
}

}  // namespace recengine
