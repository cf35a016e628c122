// Token mixing of one sample, as the kernels see it (no torch here).
//
// x is [T, H * part]. Mixing writes row h of s [H, T * part] as the h-th parts of all tokens side by side,
// plus row h of a residual; the normed row is weight * s / sqrt(mean(s^2) + eps). Mixing with T and H
// exchanged is its own inverse (revert). A sample's rows live in the cache between the passes.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/matrix.h"

namespace recengine {

struct MixSample {
  int64_t tokens, heads, part;
  Matrix x;         // [tokens, heads * part]; unused where `mixed` is read
  Matrix residual;  // [heads, tokens * part], or data null; `x` itself for a residual of the input
  const float* weight;  // [tokens * part], or null: no norm
  float eps;
  const char* next = nullptr;  // what is read after this sample, in one piece: fetched meanwhile
  int64_t next_bytes = 0;
};

struct MixGradients {
  Matrix normed, mixed;  // dL/d of the two outputs; data null where there is none
  Matrix saved;          // s where it was kept, else data null: it is made again from x and the residual
  const float* rstd;     // [heads]
  MutableMatrix x, residual;  // written; residual.data null: not wanted
  bool into_input;       // the residual was x: its gradient joins that of x
  float* weight;         // [tokens * part], added to
};

// Floats of scratch that one worker needs: rows of mixed width, and one of the input's.
inline int64_t mix_scratch(int64_t tokens, int64_t heads, int64_t part) {
  return (heads + 3) * ((tokens * part + 15) / 16 * 16) + (heads * part + 15) / 16 * 16;
}

}  // namespace recengine

RECENGINE_DECLARE(
    // normed and mixed are written where their data is not null; rstd [heads] where there is a weight.
    void mix_forward(const recengine::MixSample& sample, const recengine::MutableMatrix& normed,
                     const recengine::MutableMatrix& mixed, float* rstd, float* scratch);
    void mix_backward(const recengine::MixSample& sample, const recengine::MixGradients& gradients, float* scratch);
    // A row of n elements as floats.
    void mix_read(const recengine::Matrix& row, int64_t n, float* to);)
