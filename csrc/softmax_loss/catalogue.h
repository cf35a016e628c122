// What both ways to make the logits of a step share (kernels_cpu.cpp on float32 vectors, catalogue_blocks.h on
// bf16 tiles): the size of a step and everything that happens to the logits of a row.
#pragma once

#include "common/gemm.h"
#include "common/rows.h"
#include "softmax_loss/kernels.h"

namespace KERN_NS {

using recengine::CatalogueLoss;

constexpr int NB = 192;            // items of a step: a multiple of MR and of NR on every instruction set
constexpr int UB = 8 * MR;         // rows of a backward step
constexpr int MOST_ROWS = 12 * UB;
constexpr float LOWEST = -1e30f;   // stands in for minus infinity: differences of it stay finite
static_assert(NB % MR == 0 && NB % NR == 0 && UB % MR == 0);

// log of sum_j exp(x_j), of the largest x and total = sum_j exp(x_j - largest). Nothing but LOWEST was met: -inf. A NaN is
// passed over where the largest is looked for, and stands in the total.
RE_INLINE float log_of_sum(float largest, float total) {
  if (largest <= 0.5f * LOWEST && total == total) return -__builtin_inff();
  return largest + __builtin_logf(total);
}

RE_INLINE int64_t padded(int64_t width) { return (width + NR - 1) / NR * NR; }

// Where the logits of one group of rows against a step's items are kept: by tile of UB rows, then by step.
RE_INLINE float* kept_tile(const CatalogueLoss& p, int64_t row, int64_t block) {
  const int64_t blocks = (p.items + NB - 1) / NB;
  return p.logits + (row / UB * blocks + block) * UB * NB + row % UB * NB;
}

RE_INLINE void fill_bias(const CatalogueLoss& p, int64_t item, int64_t count, float* bias) {
  for (int64_t x = 0; x < NB; ++x) bias[x] = x >= count ? LOWEST : p.bias ? p.bias[item + x] : 0.f;
}

// Items with the key of a row, the target apart, drop out of that row.
RE_INLINE void leave_out(const CatalogueLoss& p, int64_t row, int64_t item, int64_t count, float* x) {
  const int64_t key = p.row_key[row];
  const int64_t* keys = p.item_key + item;
  const int64_t hit = p.target[row] - item;
  const float kept = hit >= 0 && hit < count ? x[hit] : 0.f;
  for (int64_t j = 0; j < count; ++j) x[j] = keys[j] == key ? LOWEST : x[j];
  if (hit >= 0 && hit < count) x[hit] = kept;
}

constexpr float LOG2_E = 1.44269504f;
constexpr int LANES = 2 * W;  // of a row: its largest logit and the sum of exp(logit - largest), lane by lane

// scale times x: the logits of one row against a step's items, into the row's lanes.
RE_INLINE void add_logits(const CatalogueLoss& p, int64_t row, int64_t item, int64_t count, float scale, float* x,
                          float* lanes) {
  if (p.row_key) leave_out(p, row, item, count, x);
  vf top0 = load(x), top1 = load(x + W);
#pragma GCC unroll 6
  for (int64_t j = 2 * W; j < NB; j += 2 * W) {
    top0 = vmax(top0, load(x + j));
    top1 = vmax(top1, load(x + j + W));
  }
  const vf before = load(lanes), by = splat(scale), now = vmax(before, vmax(top0, top1) * by);
  vf s0{}, s1 = load(lanes + W) * vexp2((before - now) * LOG2_E);
#pragma GCC unroll 2
  for (int64_t j = 0; j < NB; j += 2 * W) {
    s0 += vexp2((load(x + j) * by - now) * LOG2_E);
    s1 += vexp2((load(x + j + W) * by - now) * LOG2_E);
  }
  store(lanes, now);
  store(lanes + W, s0 + s1);
}

RE_INLINE void clear_lanes(int64_t rows, float* lanes) {
  for (int64_t r = 0; r < rows; ++r, lanes += LANES) {
    store(lanes, splat(LOWEST));
    store(lanes + W, vf{});
  }
}

RE_INLINE void join_lanes(int64_t rows, const float* lanes, float* largest, float* sum) {
  for (int64_t r = 0; r < rows; ++r, lanes += LANES) {
    largest[r] = hmax(load(lanes));
    sum[r] = hsum(load(lanes + W) * vexp2((load(lanes) - splat(largest[r])) * LOG2_E));
  }
}

// The same logits become their gradient: spread * softmax - hit * [item is target]. made: the logits, which are x
// itself or what the forward pass kept (then nothing is left to leave out).
RE_INLINE void to_gradient(const CatalogueLoss& p, int64_t row, int64_t item, int64_t count, float scale, float lse,
                           float spread, float hit, const float* made, float* x) {
  if (p.row_key && made == x) leave_out(p, row, item, count, x);
  const vf shift = splat(lse), weight = splat(spread), by = splat(scale);
#pragma GCC unroll 2
  for (int64_t j = 0; j < NB; j += 2 * W) {
    store(x + j, weight * vexp2((load(made + j) * by - shift) * LOG2_E));
    store(x + j + W, weight * vexp2((load(made + j + W) * by - shift) * LOG2_E));
  }
  const int64_t at = p.target[row] - item;
  if (at >= 0 && at < count) x[at] -= hit;
}

}  // namespace KERN_NS
