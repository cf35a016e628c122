// Inverse of a symmetric positive definite matrix by sweeping blocks of columns: every step is one
// symmetric update by a GEMM tile, so the work is n^3 multiply-adds at the tile's rate, and each tile
// is computed by one thread in one order.
#pragma once

#include "factorization/kernels.h"
#include "common/vec.h"

namespace KERN_NS {

template <class T>
struct Tile {
  static constexpr int lanes = W * 4 / static_cast<int>(sizeof(T));
  static constexpr int rows = W == 16 ? 12 : 6;
  static constexpr int columns = 2 * lanes;
  typedef T v __attribute__((vector_size(W * 4)));
  typedef T v_u __attribute__((vector_size(W * 4), aligned(sizeof(T))));
  static RE_INLINE v get(const T* p) { return *reinterpret_cast<const v_u*>(p); }
  static RE_INLINE void put(T* p, v x) { *reinterpret_cast<v_u*>(p) = x; }

  // left [k][rows], right [k][columns]; ep(i, c0, c1) consumes row i of left' right.
  template <class Epilogue>
  static RE_INLINE void multiply(int64_t k, const T* left, const T* right, Epilogue&& ep) {
    v c0[rows], c1[rows];
#pragma GCC unroll 12
    for (int i = 0; i < rows; ++i) c0[i] = c1[i] = v{};
    for (; k > 0; --k, left += rows, right += columns) {
      const v b0 = get(right), b1 = get(right + lanes);
#pragma GCC unroll 12
      for (int i = 0; i < rows; ++i) {
        c0[i] += left[i] * b0;
        c1[i] += left[i] * b1;
      }
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; ++i) ep(i, c0[i], c1[i]);
  }
};

// Element (i, k) of the symmetric matrix whose lower triangle is stored.
template <class T>
RE_INLINE T symmetric(const recengine::SweepArgs<T>& a, int64_t i, int64_t k) {
  return i >= k ? a.a[i * a.n + k] : a.a[k * a.n + i];
}

// pivot = inverse of the diagonal block; false when the block is not positive definite.
template <class T>
RE_INLINE bool sweep_pivot(const recengine::SweepArgs<T>& a) {
  const int64_t b = a.k1 - a.k0;
  T* m = a.pivot;
  for (int64_t i = 0; i < b; ++i)
    for (int64_t k = 0; k < b; ++k) m[i * b + k] = symmetric(a, a.k0 + i, a.k0 + k);
  for (int64_t p = 0; p < b; ++p) {
    const T pivot = m[p * b + p];
    if (!(pivot > 0)) return false;
    const T inverse = 1 / pivot;
    m[p * b + p] = 1;
    for (int64_t k = 0; k < b; ++k) m[p * b + k] *= inverse;
    for (int64_t i = 0; i < b; ++i) {
      if (i == p) continue;
      const T c = m[i * b + p];
      m[i * b + p] = 0;
      for (int64_t k = 0; k < b; ++k) m[i * b + k] -= c * m[p * b + k];
    }
  }
  return true;
}

// Rows [begin, end) of the panel: packed for the update, and times the pivot. Rows of the block are zero.
template <class T>
RE_INLINE void sweep_panel(const recengine::SweepArgs<T>& a, int64_t begin, int64_t end) {
  using G = Tile<T>;
  const int64_t b = a.k1 - a.k0;
  T panel[recengine::sweep_block];
  for (int64_t i = begin; i < end; ++i) {
    const bool own = i >= a.k0 && i < a.k1;
    T* to = a.packed + (i / G::columns) * G::columns * b + i % G::columns;
    T* product = a.product + i * b;
    for (int64_t k = 0; k < b; ++k) {
      panel[k] = own ? 0 : symmetric(a, i, a.k0 + k);
      to[k * G::columns] = panel[k];
      product[k] = 0;
    }
    if (own) continue;
    for (int64_t p = 0; p < b; ++p) {
      const T c = panel[p];
      for (int64_t k = 0; k < b; ++k) product[k] += c * a.pivot[p * b + k];
    }
  }
}

// A_ij -= (panel pivot)_i . panel_j for rows i in [begin, end) and all j up to the diagonal's tile.
template <class T>
RE_INLINE void sweep_update(const recengine::SweepArgs<T>& a, int64_t begin, int64_t end) {
  using G = Tile<T>;
  const int64_t b = a.k1 - a.k0;
  alignas(64) T left[recengine::sweep_block * G::rows];
  for (int64_t i0 = begin; i0 < end; i0 += G::rows) {
    const int m = static_cast<int>(end - i0 < G::rows ? end - i0 : G::rows);
    for (int i = 0; i < G::rows; ++i)
      for (int64_t k = 0; k < b; ++k) left[k * G::rows + i] = i < m ? a.product[(i0 + i) * b + k] : 0;
    for (int64_t j = 0; j < i0 + m; j += G::columns) {
      const int64_t n = a.n - j < G::columns ? a.n - j : G::columns;
      T* c = a.a + i0 * a.n + j;
      G::multiply(b, left, a.packed + j * b, [&](int i, typename G::v c0, typename G::v c1) {
        if (i >= m) return;
        T* row = c + i * a.n;
        if (n == G::columns) {
          G::put(row, G::get(row) - c0);
          G::put(row + G::lanes, G::get(row + G::lanes) - c1);
        } else {
          for (int64_t k = 0; k < n; ++k) row[k] -= k < G::lanes ? c0[k] : c1[k - G::lanes];
        }
      });
    }
  }
}

// The swept rows and columns themselves.
template <class T>
RE_INLINE void sweep_store(const recengine::SweepArgs<T>& a, int64_t begin, int64_t end) {
  const int64_t b = a.k1 - a.k0;
  for (int64_t i = begin; i < end; ++i) {
    if (i >= a.k0 && i < a.k1) {
      for (int64_t k = 0; k <= i - a.k0; ++k) a.a[i * a.n + a.k0 + k] = -a.pivot[(i - a.k0) * b + k];
    } else if (i >= a.k1) {
      for (int64_t k = 0; k < b; ++k) a.a[i * a.n + a.k0 + k] = a.product[i * b + k];
    } else {
      for (int64_t k = 0; k < b; ++k) a.a[(a.k0 + k) * a.n + i] = a.product[i * b + k];
    }
  }
}

int64_t sweep_columns_f32() { return Tile<float>::columns; }
int64_t sweep_columns_f64() { return Tile<double>::columns; }
bool sweep_pivot_f32(const recengine::SweepArgs<float>& a) { return sweep_pivot(a); }
bool sweep_pivot_f64(const recengine::SweepArgs<double>& a) { return sweep_pivot(a); }
void sweep_panel_f32(const recengine::SweepArgs<float>& a, int64_t b, int64_t e) { sweep_panel(a, b, e); }
void sweep_panel_f64(const recengine::SweepArgs<double>& a, int64_t b, int64_t e) { sweep_panel(a, b, e); }
void sweep_update_f32(const recengine::SweepArgs<float>& a, int64_t b, int64_t e) { sweep_update(a, b, e); }
void sweep_update_f64(const recengine::SweepArgs<double>& a, int64_t b, int64_t e) { sweep_update(a, b, e); }
void sweep_store_f32(const recengine::SweepArgs<float>& a, int64_t b, int64_t e) { sweep_store(a, b, e); }
void sweep_store_f64(const recengine::SweepArgs<double>& a, int64_t b, int64_t e) { sweep_store(a, b, e); }

}  // namespace KERN_NS
