// Bayesian personalised ranking by stochastic gradient: one stratum, one triple after another.
#pragma once

#include "factorization/kernels.h"
#include "factorization/lanes.h"

namespace KERN_NS {

struct Splitmix {  // counter-based: the n-th number depends on the key and n alone
  uint64_t state;
  RE_INLINE uint64_t next() {
    uint64_t z = state += 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  RE_INLINE int64_t below(int64_t n) {
    return static_cast<int64_t>(((next() >> 32) * static_cast<uint64_t>(n)) >> 32);
  }
};

// Whether an ascending row holds the item; no branch depends on the data.
RE_INLINE bool holds(const int32_t* row, int64_t n, int32_t item) {
  while (n > 1) {
    const int64_t half = n / 2;
    row = row[half] <= item ? row + half : row;
    n -= half;
  }
  return n == 1 && *row == item;
}

template <int NV>
RE_INLINE void step(const recengine::StratumArgs& a, recengine::Pair p, int32_t negative) {
  const int64_t d = NV ? NV * W : a.d;
  float *u = a.users + p.user * d, *i = a.items + p.item * d, *j = a.items + negative * d;
  vf s{};
  for (int64_t k = 0; k < d; k += W) s += load(u + k) * (load(i + k) - load(j + k));
  const float margin = lane_sum(s) + a.bias[p.item] - a.bias[negative];
  const float push = a.rate * vsigmoid(splat(-margin))[0];
  const vf c = splat(push), keep_u = splat(1.f - a.rate * a.reg_user), keep_i = splat(1.f - a.rate * a.reg_item);
  for (int64_t k = 0; k < d; k += W) {
    const vf x = load(u + k), y = load(i + k), z = load(j + k);
    store(u + k, keep_u * x + c * (y - z));
    store(i + k, keep_i * y + c * x);
    store(j + k, keep_i * z - c * x);
  }
  const float keep_b = 1.f - a.rate * a.reg_bias;
  a.bias[p.item] = keep_b * a.bias[p.item] + push;
  a.bias[negative] = keep_b * a.bias[negative] - push;
}

void train_stratum(const recengine::StratumArgs& a) {
  constexpr int ahead = 32;      // triples drawn before they are applied: their rows arrive meanwhile
  constexpr int attempts = 16;   // draws of a negative before the pair is left out
  Splitmix random{a.key};
  for (int64_t t = a.n - 1; t > 0; --t) {
    const int64_t other = random.below(t + 1);
    const recengine::Pair kept = a.pairs[t];
    a.pairs[t] = a.pairs[other];
    a.pairs[other] = kept;
  }
  with_vectors(a.d, [&]<int NV>() {
    int32_t negatives[ahead];
    for (int64_t begin = 0; begin < a.n; begin += ahead) {
      const int n = static_cast<int>(a.n - begin < ahead ? a.n - begin : ahead);
      for (int t = 0; t < n; ++t) {
        const recengine::Pair p = a.pairs[begin + t];
        const int64_t from = a.indptr[p.user], length = a.indptr[p.user + 1] - from;
        int32_t drawn = -1;
        for (int attempt = 0; attempt < attempts; ++attempt) {
          const int32_t item = a.candidates[random.below(a.n_candidates)];
          if (!holds(a.columns + from, length, item)) {
            drawn = item;
            break;
          }
        }
        negatives[t] = drawn;
        const int64_t row = drawn < 0 ? p.item : drawn;
        for (int64_t k = 0; k < a.d; k += 16) {
          __builtin_prefetch(a.users + p.user * a.d + k, 1);
          __builtin_prefetch(a.items + p.item * a.d + k, 1);
          __builtin_prefetch(a.items + row * a.d + k, 1);
        }
      }
      for (int t = 0; t < n; ++t)
        if (negatives[t] >= 0) step<NV>(a, a.pairs[begin + t], negatives[t]);
    }
  });
}

}  // namespace KERN_NS
