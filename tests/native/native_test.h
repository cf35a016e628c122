// What a native test program uses: main, registration, random numbers, buffers of exactly the size that is promised
// (so that the address sanitizer sees one element too many), threads, and comparison.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/amx.h"
#include "common/isa.h"
#include "common/matrix.h"

namespace native {

using recengine::Matrix;
using recengine::MutableMatrix;

struct Test {
  const char* name;
  void (*run)();
};
inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}
struct Register {
  Register(const char* name, void (*run)()) { tests().push_back({name, run}); }
};
#define NATIVE_TEST(name)                                 \
  static void name();                                     \
  static const ::native::Register register_##name{#name, name}; \
  static void name()

inline void expect(bool held, const std::string& what) {
  if (held) return;
  std::printf("FAILED: %s\n", what.c_str());
  std::exit(1);
}

inline std::mt19937& random() {
  static std::mt19937 engine(20260207);
  return engine;
}
inline float normal() { return std::normal_distribution<float>()(random()); }
inline int64_t below(int64_t n) { return static_cast<int64_t>(random()() % static_cast<uint64_t>(n)); }

inline uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline float from_bf16(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}

// A matrix [rows, cols] in memory of its own: floats or bf16, rows `gap` elements longer than they are wide.
struct Buffer {
  int64_t rows, cols, row;
  bool bf16;
  std::vector<float> wide;
  std::vector<uint16_t> narrow;

  Buffer(int64_t rows, int64_t cols, bool bf16 = false, int64_t gap = 0, bool fill = true)
      : rows(rows), cols(cols), row(cols + gap), bf16(bf16) {
    const size_t size = rows ? static_cast<size_t>((rows - 1) * row + cols) : 0;
    (bf16 ? narrow.resize(size) : wide.resize(size));
    if (fill)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < cols; ++c) set(r, c, normal());
  }
  void set(int64_t r, int64_t c, float x) {
    if (bf16)
      narrow[static_cast<size_t>(r * row + c)] = to_bf16(x);
    else
      wide[static_cast<size_t>(r * row + c)] = x;
  }
  double at(int64_t r, int64_t c) const {
    const size_t i = static_cast<size_t>(r * row + c);
    return bf16 ? from_bf16(narrow[i]) : wide[i];
  }
  void* data() { return bf16 ? static_cast<void*>(narrow.data()) : wide.data(); }
  Matrix view() { return {data(), row, 1, bf16}; }
  MutableMatrix to() { return {data(), row, 1, bf16}; }
  bool same(const Buffer& other) const { return wide == other.wide && narrow == other.narrow; }
};

// Relative error that a unit for products of bfloat16 leaves in what follows from two of them, beside the rounding of the
// result: what lies between is kept in one part, rounded as results are, or in two.
inline double between_products(bool bf16) {
  if (!bf16) return 0;
  return recengine::bf16_dots_live() && !recengine::amx_live() ? 4e-3 : 1e-4;
}

// |found - truth| / |truth| over everything; `more`: beside what rounding the result allows.
inline void close(const Buffer& found, const std::vector<double>& truth, const std::string& what, double more = 0) {
  double error = 0, size = 0;
  for (int64_t r = 0; r < found.rows; ++r)
    for (int64_t c = 0; c < found.cols; ++c) {
      const double t = truth[static_cast<size_t>(r * found.cols + c)], d = found.at(r, c) - t;
      error += d * d;
      size += t * t;
    }
  // Rounding to bf16 changes a number by up to 2^-8 of it, many by 1.7e-3 in norm.
  const double rounding = truth.size() < 256 ? 1.0 / 256 : 2e-3;
  const double bound = (found.bf16 ? rounding : 2e-6) + more;  // relative; beside it what the sums' terms, about 1 each, leave
  expect(std::sqrt(error) <= bound * std::sqrt(size) + 5e-6 * std::sqrt(static_cast<double>(truth.size())),
         what + ": relative error " + std::to_string(std::sqrt(error / (size > 0 ? size : 1))));
}
inline void close(float found, double truth, double scale, const std::string& what) {
  expect(std::abs(found - truth) <= 2e-6 * scale + 1e-7, what + ": " + std::to_string(found) + " against " + std::to_string(truth));
}

// body(i) for i in [0, n), by threads that take every i that is theirs.
inline void parallel(int64_t n, int threads, const std::function<void(int64_t)>& body) {
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t)
    pool.emplace_back([&, t] {
      for (int64_t i = t; i < n; i += threads) body(i);
    });
  for (std::thread& thread : pool) thread.join();
}

// Scratch of exactly n floats, with garbage in it, aligned as the launchers align it.
class Scratch {
 public:
  explicit Scratch(int64_t n) : memory_(static_cast<size_t>(n) + 16, NAN) {}
  float* get() {
    const uintptr_t p = reinterpret_cast<uintptr_t>(memory_.data() + memory_.size());
    const size_t n = memory_.size() - 16;
    return reinterpret_cast<float*>((p - n * sizeof(float)) / 64 * 64);
  }

 private:
  std::vector<float> memory_;
};

}  // namespace native

// Included once, by the family's test program.
int main() {
  std::printf("instruction set: %s\n", recengine::isa_name());
  for (const native::Test& test : native::tests()) {
    std::printf("  %s\n", test.name);
    std::fflush(stdout);
    test.run();
  }
  std::printf("%zu tests passed\n", native::tests().size());
}
