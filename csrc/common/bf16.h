// The element type of a kernel as a template argument, float or bf16, where rows.h decides by a flag:
// for loops that go through their data once and must not branch on the way.
#pragma once

#include "common/rows.h"

namespace KERN_NS {

struct bf16 {
  uint16_t bits;
};

RE_INLINE float widen(float x) { return x; }
RE_INLINE float widen(bf16 x) { return bf16_to_float(x.bits); }
RE_INLINE void narrow(float* p, float x) { *p = x; }
RE_INLINE void narrow(bf16* p, float x) { p->bits = float_to_bf16(x); }
RE_INLINE vf load(const bf16* p) { return load_bf16(&p->bits); }
RE_INLINE void store(bf16* p, vf v) { store_bf16(&p->bits, v); }

// The first n < W elements; the lanes behind are zero (load) or not written (store).
template <class T>
RE_INLINE vf load_tail(const T* p, int64_t n) {
  float t[W] = {};
  for (int64_t i = 0; i < n; ++i) t[i] = widen(p[i]);
  return load(t);
}
template <class T>
RE_INLINE void store_tail(T* p, vf v, int64_t n) {
  float t[W];
  store(t, v);
  for (int64_t i = 0; i < n; ++i) narrow(p + i, t[i]);
}

}  // namespace KERN_NS
