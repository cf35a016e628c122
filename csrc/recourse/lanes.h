// Vectors of doubles, as wide as those of floats; for the recourse kernels.
#pragma once

#include <cstring>

#include "common/vec.h"

namespace KERN_NS {

typedef double vd __attribute__((vector_size(sizeof(vf))));
typedef vd vd_u __attribute__((aligned(8), may_alias));
typedef int64_t vl __attribute__((vector_size(sizeof(vf))));
inline constexpr int64_t lanes = sizeof(vd) / sizeof(double);
RE_INLINE vd loaded(const double* p) { return *reinterpret_cast<const vd_u*>(p); }
RE_INLINE void stored(double* p, vd v) { *reinterpret_cast<vd_u*>(p) = v; }

// Lanes summed by halves: the same order for every length.
RE_INLINE double total(vd v) {
  double t[lanes];
  std::memcpy(t, &v, sizeof(v));
  for (int64_t h = lanes / 2; h > 0; h /= 2)
    for (int64_t i = 0; i < h; ++i) t[i] += t[i + h];
  return t[0];
}
RE_INLINE float total(vf v) { return hsum(v); }

template <class T>
struct Wide;
template <>
struct Wide<float> {
  typedef vf type;
  typedef vi index;
  static constexpr int64_t eights = 2;  // read at a time
};
template <>
struct Wide<double> {
  typedef vd type;
  typedef vl index;
  static constexpr int64_t eights = 1;
};

}  // namespace KERN_NS
