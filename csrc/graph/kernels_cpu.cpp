#include "graph/graph.h"

#include "common/rows.h"

// A row of the product is a weighted sum of rows of the dense matrix. Up to four vectors of the sum stay in
// registers while the entries go by; the rows they name are asked for ahead of time, since where they lie is
// random and their number is what the operation costs.
namespace KERN_NS {

using recengine::Matrix;
using recengine::MutableMatrix;
using recengine::SparseProduct;

namespace {

constexpr int64_t AHEAD = 12;  // entries between the request for a row and its use

RE_INLINE float factor(const SparseProduct& p, int64_t e) {
  const float scale = p.column_scale ? p.column_scale[p.columns[e]] : 1.f;
  return p.values ? scale * p.values[e] : scale;
}

// Columns [column, column + VECS * W) of one row.
template <int VECS, bool REQUEST>
RE_INLINE void sum_columns(const SparseProduct& p, const float* rows, int64_t step, int64_t column, int64_t from,
                           int64_t to, int64_t last, float scale, float* out) {
  vf sum[VECS] = {};
  for (int64_t e = from; e < to; ++e) {
    if (REQUEST && e + AHEAD < last) {
      const char* next = reinterpret_cast<const char*>(rows + p.columns[e + AHEAD] * step);
      for (int64_t byte = 0; byte < p.width * 4 && byte < 512; byte += 64) __builtin_prefetch(next + byte);
    }
    const float* x = rows + p.columns[e] * step + column;
    const vf f = splat(factor(p, e));
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) sum[v] += load(x + v * W) * f;
  }
#pragma GCC unroll 4
  for (int v = 0; v < VECS; ++v) store(out + column + v * W, sum[v] * scale);
}

__attribute__((noinline)) void any_row(const SparseProduct& p, const Matrix& dense, int64_t from, int64_t to, float scale,
                         float* out, float* buffer) {
  for (int64_t k = 0; k < p.width; ++k) out[k] = 0.f;
  for (int64_t e = from; e < to; ++e) {
    const float* x = read_row(dense, p.columns[e], p.width, buffer);
    const float f = factor(p, e);
    for (int64_t k = 0; k < p.width; ++k) out[k] += f * x[k];
  }
  for (int64_t k = 0; k < p.width; ++k) out[k] *= scale;
}

}  // namespace

void sparse_rows(const SparseProduct& p, const Matrix& dense, int64_t begin, int64_t end, const MutableMatrix& out,
                 float* scratch) {
  float* buffer = scratch + (p.width + 15) / 16 * 16;
  const bool plain = !dense.bf16 && dense.col == 1 && p.width % W == 0;
  const bool straight = !out.bf16 && out.col == 1;
  const float* rows = static_cast<const float*>(dense.data);
  const int64_t last = p.indptr[end];
  for (int64_t r = begin; r < end; ++r) {
    const int64_t from = p.indptr[r], to = p.indptr[r + 1];
    const float scale = p.row_scale ? p.row_scale[r] : 1.f;
    float* sum = straight ? static_cast<float*>(out.data) + r * out.row : scratch;
    if (plain) {
      int64_t c = 0;
      if (p.width >= 4 * W) sum_columns<4, true>(p, rows, dense.row, 0, from, to, last, scale, sum), c = 4 * W;
      for (; c + 4 * W <= p.width; c += 4 * W) sum_columns<4, false>(p, rows, dense.row, c, from, to, last, scale, sum);
      for (; c < p.width; c += W) sum_columns<1, false>(p, rows, dense.row, c, from, to, last, scale, sum);
    } else {
      any_row(p, dense, from, to, scale, sum, buffer);
    }
    if (!straight) write_row(out, r, p.width, sum);
  }
}

}  // namespace KERN_NS
