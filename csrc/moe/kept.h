// What lies before the activation may be kept from the forward pass for the backward pass: 32 rows by 32 hidden columns of
// gate, then of up, a pair behind the other, [group of rows][strip]. The same for all ways to make it.
#pragma once

#include <cstring>

#include "common/vec.h"
#include "moe/kernels.h"

namespace KERN_NS {

constexpr int64_t KEPT_EDGE = 32, KEPT_BLOCK = 2 * KEPT_EDGE * KEPT_EDGE;

RE_INLINE float* kept_block(float* kept, int64_t number) { return kept ? kept + number * KEPT_BLOCK : nullptr; }

RE_INLINE int64_t kept_strips(int64_t hidden) { return (hidden + KEPT_EDGE - 1) / KEPT_EDGE; }

// Where column col of the row lies before the activation in gate; in up KEPT_EDGE^2 floats behind it.
RE_INLINE float* kept_row(float* kept, int64_t hidden, int64_t row, int64_t col) {
  return kept_block(kept, row / KEPT_EDGE * kept_strips(hidden) + col / KEPT_EDGE) + row % KEPT_EDGE * KEPT_EDGE + col % KEPT_EDGE;
}

// Written past the cache where the instruction set has it, because nobody reads it soon; published() before another
// thread does.
#if defined(__AVX512F__)
RE_INLINE void keep(float* to, vf v) { _mm512_stream_ps(to, v); }
RE_INLINE void published() { _mm_sfence(); }
#else
RE_INLINE void keep(float* to, vf v) { store(to, v); }
RE_INLINE void published() {}
#endif

// Zeros where no row or column is: rows from `rows` on of the last group, columns from `cols` on of the last strip.
inline void clear_around_kept(float* kept, int64_t hidden, int64_t rows, int64_t cols) {
  const int64_t strips = kept_strips(hidden), groups = (rows + KEPT_EDGE - 1) / KEPT_EDGE;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t s = 0; s < strips; ++s)
      for (int64_t r = 0; r < KEPT_EDGE; ++r) {
        const int64_t col = s * KEPT_EDGE, from = g * KEPT_EDGE + r >= rows ? col : cols > col ? cols : col;
        if (from >= col + KEPT_EDGE) continue;
        float* to = kept_row(kept, hidden, g * KEPT_EDGE + r, from);
        const size_t bytes = sizeof(float) * static_cast<size_t>(col + KEPT_EDGE - from);
        std::memset(to, 0, bytes), std::memset(to + KEPT_EDGE * KEPT_EDGE, 0, bytes);
      }
}

}  // namespace KERN_NS
