// Rows of d floats as vectors: NV of them when the count is known at compile time, else a loop.
#pragma once

#include "common/vec.h"

namespace KERN_NS {

typedef float vf4 __attribute__((vector_size(16)));

// Sum of the lanes by halving in registers; the same order as hsum.
RE_INLINE float lane_sum(vf v) {
#if defined(__AVX512F__)
  const auto h = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                 __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  const vf4 q = __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
#elif defined(__AVX2__)
  const vf4 q = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
  const vf4 q = v;
#endif
  const vf4 p = q + __builtin_shufflevector(q, q, 2, 3, 2, 3);
  return p[0] + p[1];
}

// f.template operator()<NV>() for the number of vectors in a row of d floats (0: any other number).
template <class F>
RE_INLINE void with_vectors(int64_t d, F&& f) {
  switch (d / W) {
    case 1: return f.template operator()<1>();
    case 2: return f.template operator()<2>();
    case 4: return f.template operator()<4>();
    case 8: return f.template operator()<8>();
    default: return f.template operator()<0>();
  }
}

}  // namespace KERN_NS
