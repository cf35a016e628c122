// Choosing the best k of a list of 64-bit keys. A key holds a score and an id so that plain integer
// order is the order of retrieval: smaller key = higher score, then smaller id.
#pragma once

#include <type_traits>

#include "common/vec.h"

namespace KERN_NS {

using Key = uint64_t;

RE_INLINE uint32_t float_bits(float x) {
  uint32_t b;
  std::memcpy(&b, &x, 4);
  return b;
}
RE_INLINE float bits_float(uint32_t b) {
  float x;
  std::memcpy(&x, &b, 4);
  return x;
}

RE_INLINE Key make_key(float score, uint32_t id) {
  uint32_t b = float_bits(score);
  if (b == 0x80000000u) b = 0;  // -0 equals +0
  const uint32_t ascending = b & 0x80000000u ? ~b : b | 0x80000000u;
  return static_cast<Key>(~ascending) << 32 | id;
}
RE_INLINE float key_score(Key key) {
  const uint32_t ascending = ~static_cast<uint32_t>(key >> 32);
  return bits_float(ascending & 0x80000000u ? ascending & 0x7fffffffu : ~ascending);
}
RE_INLINE uint32_t key_id(Key key) { return static_cast<uint32_t>(key); }

// The next float above x (x finite or -inf), by bits: unlike nextafter it cannot raise a flag or fail.
RE_INLINE float next_up(float x) {
  const uint32_t b = float_bits(x);
  if ((b & 0x7fffffffu) == 0) return bits_float(1);
  return bits_float(b & 0x80000000u ? b - 1 : b + 1);
}
RE_INLINE float next_down(float x) {
  const uint32_t b = float_bits(x);
  if ((b & 0x7fffffffu) == 0) return bits_float(0x80000001u);
  return bits_float(b & 0x80000000u ? b + 1 : b - 1);
}

template <class T>
RE_INLINE void swap_values(T& a, T& b) {
  const T t = a;
  a = b;
  b = t;
}

// Reorders a[0 .. n) so that a[0 .. k) are its k smallest values and a[k - 1] the largest of those.
template <class T>
static void select_smallest(T* a, int64_t n, int64_t k) {
  int64_t low = 0, high = n - 1;
  const int64_t at = k - 1;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;  // median of three as pivot
    if (a[middle] < a[low]) swap_values(a[middle], a[low]);
    if (a[high] < a[low]) swap_values(a[high], a[low]);
    if (a[high] < a[middle]) swap_values(a[high], a[middle]);
    const T pivot = a[middle];
    int64_t i = low, j = high;
    while (i <= j) {
      while (a[i] < pivot) ++i;
      while (pivot < a[j]) --j;
      if (i <= j) swap_values(a[i++], a[j--]);
    }
    if (at <= j)
      high = j;
    else if (at >= i)
      low = i;
    else
      return;
  }
}

// Heap sort, ascending: no recursion and no bad case.
template <class T>
static void sort_values(T* a, int64_t n) {
  if (n <= 32) {
    for (int64_t i = 1; i < n; ++i) {
      const T x = a[i];
      int64_t j = i;
      for (; j > 0 && x < a[j - 1]; --j) a[j] = a[j - 1];
      a[j] = x;
    }
    return;
  }
  auto sink = [a](int64_t root, int64_t size) {
    const T x = a[root];
    for (int64_t child; (child = 2 * root + 1) < size; root = child) {
      if (child + 1 < size && a[child] < a[child + 1]) ++child;
      if (!(x < a[child])) break;
      a[root] = a[child];
    }
    a[root] = x;
  };
  for (int64_t i = n / 2 - 1; i >= 0; --i) sink(i, n);
  for (int64_t i = n - 1; i > 0; --i) {
    swap_values(a[0], a[i]);
    sink(0, i);
  }
}

}  // namespace KERN_NS
