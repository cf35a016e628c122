// L D L' of curve P_FF + diag(twice) over the free coordinates F of one person, in float or double, and its
// solutions for three right sides. In float it is what Newton steps with residuals in double need: each step
// leaves an error of about the precision of the factor times the step.
#pragma once

#include <algorithm>
#include <type_traits>

#include "recourse/kernels.h"
#include "recourse/lanes.h"

namespace KERN_NS {

// Which coordinates are free: their order, and as bits of eights with the number of those before each eight.
struct Free {
  int32_t* at;       // [d]
  uint8_t* bits;     // [padded16(d) / 8]
  int32_t* earlier;  // [padded16(d) / 8]
  int64_t count;

  // held [padded16(d)]: all ones or zero
  void list(const int64_t* held, int64_t d) {
    count = 0;
    for (int64_t eight = 0; eight < recengine::padded16(d) / 8; ++eight) {
      earlier[eight] = static_cast<int32_t>(count);
#if defined(__AVX512F__)
      const __mmask8 found = ~_mm512_movepi64_mask(_mm512_loadu_si512(held + 8 * eight));
      const __m256i first = _mm256_set1_epi32(static_cast<int>(8 * eight));
      const __m256i here = _mm256_add_epi32(first, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(at + count), _mm256_maskz_compress_epi32(found, here));
      count += __builtin_popcount(found);
#else
      unsigned found = 0;
      for (int64_t j = 8 * eight; j < 8 * eight + 8; ++j) {
        const unsigned one = held[j] == 0;
        found |= one << (j % 8);
        at[count] = static_cast<int32_t>(j);
        count += one;
      }
#endif
      bits[eight] = static_cast<uint8_t>(found);
    }
  }

  // The free ones of ``from``, in front.
  template <class T>
  void gather(const double* from, T* out) const {
#if defined(__AVX512F__)
    for (int64_t eight = 0; 8 * eight <= at[count - 1]; ++eight) {
      const __m512d own = _mm512_maskz_compress_pd(bits[eight], _mm512_loadu_pd(from + 8 * eight));
      if constexpr (sizeof(T) == 4) _mm256_storeu_ps(out + earlier[eight], _mm512_cvtpd_ps(own));
      else _mm512_storeu_pd(out + earlier[eight], own);
    }
#else
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(from[at[i]]);
#endif
  }
};

#if defined(__AVX512F__)
// The free ones of the lanes read at once, in front.
RE_INLINE vf packed(vf given, const uint8_t* bits) {
  return _mm512_maskz_compress_ps(static_cast<__mmask16>(bits[0] | bits[1] << 8), given);
}
RE_INLINE vd packed(vd given, const uint8_t* bits) { return _mm512_maskz_compress_pd(bits[0], given); }
#endif

template <class T>
class Factor {
 public:
  static constexpr int64_t sides = 3;

  // scratch: factor_scratch(d) elements
  Factor(T* scratch, int64_t d) : A_(scratch) {
    const int64_t most = recengine::padded16(d + sides);
    scaled_ = A_ + d * most + 16;
    inverse_ = scaled_ + eight * most;
    found_ = inverse_ + most;
    for (int64_t r = 0; r < sides; ++r) y_[r] = found_ + (r + 1) * most;
  }

  // False where the matrix is not positive definite in T. P: rows of ``stride``, a whole number of sixteens.
  bool make(const T* P, int64_t stride, const Free& f, double curve, const double* twice,
            const double* const (&right)[sides]) {
    n_ = f.count, wide_ = whole(n_ + sides);
    const int64_t n = n_, wide = wide_;
    const T scale = static_cast<T>(curve);
    T* const y[sides] = {y_[0], y_[1], y_[2]};
    for (int64_t r = 0; r < sides; ++r) f.gather(right[r], y[r]);
    T* const diagonal = found_;
    f.gather(twice, diagonal);
    T* out = A_;
    for (int64_t i = 0; i < n; ++i, out += wide) {
      const int64_t from = i / L * L, at = f.at[i];
      const T* given = P + at * stride;
#if defined(__AVX512F__)
      constexpr int64_t unit = Wide<T>::eights;
      const int64_t last = f.at[n - 1] / 8;
      for (int64_t k = f.at[from] / 8 / unit * unit; k <= last; k += unit)
        put(out + f.earlier[k], packed(get(given + 8 * k) * scale, f.bits + k));
#else
      for (int64_t j = from; j < n; ++j) out[j] = given[f.at[j]] * scale;
#endif
      out[i] = given[at] * scale + diagonal[i];
      for (int64_t r = 0; r < sides; ++r) out[n + r] = y[r][i];
      for (int64_t j = n + sides; j < wide; ++j) out[j] = 0;
    }
    return reduce();
  }

  // L^-1 of other right sides under the factor that stands
  void carry(const Free& f, const double* const (&right)[sides]) {
    const int64_t n = n_, wide = wide_;
    const T* const A = A_;
    const T* const inverse = inverse_;
    T* const y[sides] = {y_[0], y_[1], y_[2]};
    for (int64_t r = 0; r < sides; ++r) f.gather(right[r], y[r]);
    for (int64_t from = 0; from < n; from += L) {
      V own[sides];
      for (int64_t r = 0; r < sides; ++r) own[r] = get(y[r] + from);
      const int64_t end = std::min(n, from + L);
      for (int64_t k = from; k < end; ++k) {
        const V along = later(k - from) ? get(A + k * wide + from) * inverse[k] : V{};
        for (int64_t r = 0; r < sides; ++r)
          own[r] -= __builtin_shuffle(own[r], I{} + static_cast<K>(k - from)) * along;
      }
      for (int64_t r = 0; r < sides; ++r) put(y[r] + from, own[r]);
      for (int64_t j = from + L; j < n; j += L) {
        V rest[sides];
        for (int64_t r = 0; r < sides; ++r) rest[r] = get(y[r] + j);
        for (int64_t k = from; k < end; ++k) {
          const V along = get(A + k * wide + j) * inverse[k];
          for (int64_t r = 0; r < sides; ++r) rest[r] -= y[r][k] * along;
        }
        for (int64_t r = 0; r < sides; ++r) put(y[r] + j, rest[r]);
      }
    }
  }

  struct Products {  // right_r' A^-1 right_s
    double of[sides][sides];
  };
  Products products() const {
    V sum[sides][sides] = {};
    for (int64_t j = 0; j < n_; j += L) {
      const I inner = ~later(n_ - 1 - j);
      V y[sides];
      for (int64_t r = 0; r < sides; ++r) y[r] = inner ? get(y_[r] + j) : V{};
      const V inverse = inner ? get(inverse_ + j) : V{};
      for (int64_t r = 0; r < sides; ++r)
        for (int64_t s = r; s < sides; ++s) sum[r][s] += y[r] * inverse * y[s];
    }
    Products made;
    for (int64_t r = 0; r < sides; ++r)
      for (int64_t s = r; s < sides; ++s) made.of[r][s] = total(sum[r][s]);
    return made;
  }

  // A^-1 (sum_r share_r right_r), in the order of the free coordinates: eight at a time from the last, first
  // what the finished ones take from each of them
  const T* solve(const double (&share)[sides]) {
    const int64_t n = n_, wide = wide_, full = whole(n);
    const T* const A = A_;
    const T* const inverse = inverse_;
    T* const found = found_;
    const T part[sides] = {static_cast<T>(share[0]), static_cast<T>(share[1]), static_cast<T>(share[2])};
    for (int64_t j = 0; j < full; j += L) put(found + j, V{});
    for (int64_t k0 = (n - 1) / eight * eight; k0 >= 0; k0 -= eight) {
      const int64_t k1 = std::min(n, k0 + eight), from = k0 / L * L;
      const I finished = later(k1 - 1 - from);
      T left[eight];
      V sum[eight] = {};
      for (int64_t k = k0; k < k1; ++k) {
        const T* row = A + k * wide;
        V own = (finished ? get(row + from) : V{}) * get(found + from);
        for (int64_t j = from + L; j < full; j += L) own += get(row + j) * get(found + j);
        sum[k - k0] = own;
      }
      totals(sum, left);
      for (int64_t k = k0; k < k1; ++k)
        left[k - k0] = part[0] * y_[0][k] + part[1] * y_[1][k] + part[2] * y_[2][k] - left[k - k0];
      for (int64_t k = k1 - 1; k >= k0; --k) {
        const T one = found[k] = left[k - k0] * inverse[k];
        for (int64_t i = k0; i < k; ++i) left[i - k0] -= A[i * wide + k] * one;
      }
    }
    return found;
  }

 private:
  typedef typename Wide<T>::type V;
  typedef V V_u __attribute__((aligned(4), may_alias));
  typedef typename Wide<T>::index I;
  typedef std::remove_reference_t<decltype(I{}[0])> K;
  static constexpr int64_t L = sizeof(V) / sizeof(T), eight = 8;

  static int64_t whole(int64_t n) { return (n + L - 1) / L * L; }
  static V get(const T* p) { return *reinterpret_cast<const V_u*>(p); }
  static void put(T* p, V v) { *reinterpret_cast<V_u*>(p) = v; }
  // lanes beyond k
  static I later(int64_t k) {
    I lane;
    for (int64_t i = 0; i < L; ++i) lane[i] = static_cast<K>(i);
    return lane > static_cast<K>(k);
  }

  // The sum of each of eight vectors: neighbours are added and halves put together.
  static RE_INLINE void totals(V (&v)[eight], T* out) {
    if constexpr (L < eight) {
      for (int64_t i = 0; i < eight; ++i) out[i] = total(v[i]);
    } else {
      I even, odd;
      for (int64_t i = 0; i < L; ++i) even[i] = static_cast<K>(2 * i), odd[i] = static_cast<K>(2 * i + 1);
      for (int64_t n = eight; n > 1; n /= 2)
        for (int64_t i = 0; i < n / 2; ++i)
          v[i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], even) + __builtin_shuffle(v[2 * i], v[2 * i + 1], odd);
      if constexpr (L == 2 * eight) v[0] = __builtin_shuffle(v[0], v[0], even) + __builtin_shuffle(v[0], v[0], odd);
      for (int64_t i = 0; i < eight; ++i) out[i] = v[0][i];
    }
  }

  // Rows of D L' in the upper triangle (below it in each vector: leftovers), eight pivots at once, 1/D in
  // inverse_, L^-1 of the right sides in y_.
  bool reduce() {
    const int64_t n = n_, wide = wide_;
    T *const A = A_, *const scaled = scaled_, *const inverse = inverse_;
    T* const y[sides] = {y_[0], y_[1], y_[2]};
    for (int64_t k0 = 0; k0 < n; k0 += eight) {
      const int64_t k1 = std::min(n, k0 + eight), from = k0 / L * L;
      for (int64_t k = k0; k < k1; ++k) {
        const T* const pivot = A + k * wide;
        T* const share = scaled + (k - k0) * wide;
        if (!(pivot[k] > 0)) return false;
        const T one = inverse[k] = 1 / pivot[k];
        for (int64_t j = from; j < wide; j += L) put(share + j, get(pivot + j) * one);
        for (int64_t j = from; j < wide; j += L) {
          const V along = get(pivot + j);
          for (int64_t i = k + 1; i < k1; ++i) put(A + i * wide + j, get(A + i * wide + j) - share[i] * along);
        }
        for (int64_t r = 0; r < sides; ++r) y[r][k] = pivot[n + r];
      }
      int64_t i = k1;
      for (; i + 4 <= n; i += 4) take<4>(A, scaled, wide, k0, i);
      for (; i < n; ++i) take<1>(A, scaled, wide, k0, i);
    }
    return true;
  }

  // rows i .. i + count lose their part along the eight finished rows from k0
  template <int count>
  static RE_INLINE void take(T* const A, const T* const scaled, int64_t wide, int64_t k0, int64_t i) {
    for (int64_t j = i / L * L; j < wide; j += L) {
      V sum[count];
      for (int r = 0; r < count; ++r) sum[r] = get(A + (i + r) * wide + j);
#pragma GCC unroll 8
      for (int64_t q = 0; q < eight; ++q) {
        const V along = get(A + (k0 + q) * wide + j);
        for (int r = 0; r < count; ++r) sum[r] -= scaled[q * wide + i + r] * along;
      }
      for (int r = 0; r < count; ++r) put(A + (i + r) * wide + j, sum[r]);
    }
  }

  T *A_, *scaled_, *inverse_, *found_, *y_[sides];
  int64_t n_ = 0, wide_ = 0;
};

}  // namespace KERN_NS
