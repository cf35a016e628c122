// Two products with operands in cache and A where it lies, as a head of attention takes them:
// rows times a d x d matrix, and the d x d sum of outer products of rows. Tiles hold whole groups of
// columns of B, so that a long row of C is read and written once.
#pragma once

#include "common/vec.h"

namespace KERN_NS {

#if defined(__AVX512F__)
// Accumulators of a tile: at most 24 of the 32 registers.
inline constexpr int most_rows(int vecs) { return vecs <= 2 ? 12 : vecs == 3 ? 8 : 6; }
inline constexpr int MOST_VECS = 4;
#else
inline constexpr int most_rows(int) { return W == 8 ? 6 : 4; }
inline constexpr int MOST_VECS = 2;
#endif

// Rows that are read next, fetched into the second-level cache while a product runs: the rows of a head lie
// apart, and what fetches ahead in the processor does not follow them.
class Ahead {
 public:
  // `count` rows from `first` on, `stride` bytes apart, of `bytes` each.
  void add(const void* first, int64_t count, int64_t stride, int64_t bytes) {
    if (count <= 0 || pieces_ == MOST) return;
    if (stride == bytes) bytes *= count, count = 1;  // one row
    const int64_t lines = (bytes + LINE - 1) / LINE;
    piece_[pieces_++] = {static_cast<const char*>(first), stride, lines * LINE, count};
    lines_ += lines * count;
  }
  // Spreads the lines over so many calls of step().
  void over(int64_t steps) { each_ = (lines_ + steps - 1) / steps; }
  RE_INLINE void step() {
    for (int64_t i = 0; i < each_; ++i, next_ += LINE) {
      if (next_ == end_ && !row()) return;
      __builtin_prefetch(next_, 0, 2);
    }
  }

 private:
  static constexpr int MOST = 4;
  static constexpr int64_t LINE = 64;
  struct Piece {
    const char* row;
    int64_t stride, bytes, rows;
  };
  // Goes on to the next row; whether there is one. (Inline: a call would spill a tile's accumulators.)
  RE_INLINE bool row() {
    if (at_ < pieces_ && piece_[at_].rows == 0) ++at_;
    if (at_ == pieces_) {
      each_ = 0;
      return false;
    }
    Piece& p = piece_[at_];
    next_ = p.row;
    end_ = next_ + p.bytes;
    p.row += p.stride;
    --p.rows;
    return true;
  }

  Piece piece_[MOST];
  const char *next_ = nullptr, *end_ = nullptr;
  int64_t lines_ = 0, each_ = 0;
  int pieces_ = 0, at_ = 0;
};

template <int ROWS, int VECS>
struct Tile {
  vf c[ROWS][VECS];

  RE_INLINE void clear() {
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < VECS; ++j) c[i][j] = vf{};
  }
  template <class A>
  RE_INLINE void step(const float* B, A&& a) {
    vf b[VECS];
#pragma GCC unroll 4
    for (int j = 0; j < VECS; ++j) b[j] = load(B + j * W);
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i) {
      const vf x = splat(a(i));
#pragma GCC unroll 4
      for (int j = 0; j < VECS; ++j) c[i][j] += x * b[j];
    }
  }
  template <class To>
  RE_INLINE void each(To&& to) {
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < VECS; ++j) to(i, j, c[i][j]);
  }
};

// REST: K is no multiple of 4.
template <bool REST>
struct RowsTimes {
  int64_t K;
  const float* A;
  int64_t lda;
  const float* B;
  int64_t ldb;
  float* C;
  int64_t ldc;
  const float* factor;  // of every row of C, or null
  Ahead* ahead;

  template <int ROWS, int VECS>
  RE_INLINE void run(int64_t row, int64_t col) const {
    Tile<ROWS, VECS> t;
    t.clear();
    const float *a0 = A + row * lda, *a1 = a0 + 4 * lda, *a2 = a1 + 4 * lda, *b = B + col;
    const auto column = [&](int x) {
      t.step(b, [&](int i) {  // not one subscript of a chosen pointer: gcc 12's sanitizer computes that wrongly
        return i < 4 ? a0[i * lda + x] : i < 8 ? a1[(i - 4) * lda + x] : a2[(i - 8) * lda + x];
      });
    };
    const int64_t fours = REST ? K / 4 * 4 : K;
    for (int64_t k = 0; k < fours; k += 4, a0 += 4, a1 += 4, a2 += 4) {
      ahead->step();
#pragma GCC unroll 4
      for (int x = 0; x < 4; ++x, b += ldb) column(x);
    }
    if (REST)
      for (int x = 0; x < K - fours; ++x, b += ldb) column(x);
    float* c = C + row * ldc + col;
    if (factor)
      t.each([&](int i, int j, vf x) { store(c + i * ldc + j * W, x * factor[row + i]); });
    else
      t.each([&](int i, int j, vf x) { store(c + i * ldc + j * W, x); });
  }
};

struct AddOuter {
  int64_t K;
  const float* A;  // A(i, k) = A[k * lda + i]
  int64_t lda;
  const float* B;
  int64_t ldb;
  float* C;
  int64_t ldc;
  Ahead* ahead;

  template <int ROWS, int VECS>
  RE_INLINE void run(int64_t row, int64_t col) const {
    Tile<ROWS, VECS> t;
    t.clear();
    const float *a = A + row, *b = B + col;
    for (int64_t k = 0; k < K; ++k, a += lda, b += ldb) {
      ahead->step();
      t.step(b, [&](int i) { return a[i]; });
    }
    float* c = C + row * ldc + col;
    t.each([&](int i, int j, vf x) { store(c + i * ldc + j * W, load(c + i * ldc + j * W) + x); });
  }
};

template <int ROWS, int VECS, class P>
__attribute__((noinline)) void tile_of(const P& p, int64_t row, int64_t col) {
  p.template run<ROWS, VECS>(row, col);
}

// A tile of `rows` <= ROWS rows.
template <int ROWS, int VECS, class P>
RE_INLINE void tile_of_rows(const P& p, int64_t rows, int64_t row, int64_t col) {
  if constexpr (ROWS > 1) {
    if (rows < ROWS) {
      tile_of_rows<ROWS - 1, VECS>(p, rows, row, col);
      return;
    }
  }
  tile_of<ROWS, VECS>(p, row, col);
}

// All M rows of one group of columns, cut into tiles of nearly equal height.
template <int VECS, class P>
void rows_of_tiles(const P& p, int64_t M, int64_t col) {
  constexpr int most = most_rows(VECS);
  const int64_t tiles = (M + most - 1) / most;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t row = M * t / tiles;
    tile_of_rows<most, VECS>(p, M * (t + 1) / tiles - row, row, col);
  }
}

template <class P>
void all_tiles(const P& p, int64_t M, int64_t N) {
  const int64_t vecs = N / W, groups = (vecs + MOST_VECS - 1) / MOST_VECS;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = vecs * g / groups, col = first * W;
    switch (vecs * (g + 1) / groups - first) {
      case 1: rows_of_tiles<1>(p, M, col); break;
      case 2: rows_of_tiles<2>(p, M, col); break;
#if defined(__AVX512F__)
      case 3: rows_of_tiles<3>(p, M, col); break;
      case 4: rows_of_tiles<4>(p, M, col); break;
#endif
      default: break;
    }
  }
}

// C[M, N] = factor (rows of A) B[K, N]; N is a multiple of 16, K of 4.
inline void rows_times(int64_t M, int64_t N, int64_t K, const float* A, int64_t lda, const float* B, int64_t ldb,
                       float* C, int64_t ldc, const float* factor, Ahead& ahead) {
  ahead.over(M * N / (most_rows(MOST_VECS) * MOST_VECS * W) * (K / 4) + 1);
  all_tiles(RowsTimes<false>{K, A, lda, B, ldb, C, ldc, factor, &ahead}, M, N);
}

// The same for any K.
inline void rows_times_any(int64_t M, int64_t N, int64_t K, const float* A, int64_t lda, const float* B, int64_t ldb,
                           float* C, int64_t ldc, const float* factor, Ahead& ahead) {
  if (K % 4 == 0) return rows_times(M, N, K, A, lda, B, ldb, C, ldc, factor, ahead);
  ahead.over(M * N / (most_rows(MOST_VECS) * MOST_VECS * W) * (K / 4) + 1);
  all_tiles(RowsTimes<true>{K, A, lda, B, ldb, C, ldc, factor, &ahead}, M, N);
}

// C[M, N] += sum over K rows of (row of A)^T (row of B).
inline void add_outer(int64_t M, int64_t N, int64_t K, const float* A, int64_t lda, const float* B, int64_t ldb,
                      float* C, int64_t ldc, Ahead& ahead) {
  ahead.over(M * N / (most_rows(MOST_VECS) * MOST_VECS * W) * K + 1);
  all_tiles(AddOuter{K, A, lda, B, ldb, C, ldc, &ahead}, M, N);
}

}  // namespace KERN_NS
