// What both ways to make the logits of a step share (kernels_cpu.cpp on float32 vectors, catalogue_amx.h on
// bf16 tiles): the size of a step and everything that happens to the logits of a row.
#pragma once

#include "common/gemm.h"
#include "common/rows.h"
#include "softmax_loss/kernels.h"

namespace KERN_NS {

using recengine::CatalogueLoss;

constexpr int NB = 192;            // items of a step: a multiple of MR and of NR on every instruction set
constexpr int UB = 8 * MR;         // rows of a backward step
constexpr float LOWEST = -1e30f;   // stands in for minus infinity: differences of it stay finite
static_assert(NB % MR == 0 && NB % NR == 0 && UB % MR == 0);

RE_INLINE int64_t padded(int64_t width) { return (width + NR - 1) / NR * NR; }

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

// The logits of one row against a step's items, into its running maximum and sum.
RE_NOINLINE void add_logits(const CatalogueLoss& p, int64_t row, int64_t item, int64_t count, float* x, float* largest,
                            float* sum) {
  if (p.row_key) leave_out(p, row, item, count, x);
  vf top0 = load(x), top1 = load(x + W);
  for (int64_t j = 2 * W; j < NB; j += 2 * W) {
    top0 = vmax(top0, load(x + j));
    top1 = vmax(top1, load(x + j + W));
  }
  const float found = hmax(vmax(top0, top1));
  const float before = *largest, now = found > before ? found : before;
  const vf shift = splat(now);
  vf s0{}, s1{};
  for (int64_t j = 0; j < NB; j += 2 * W) {
    s0 += vexp(load(x + j) - shift);
    s1 += vexp(load(x + j + W) - shift);
  }
  const float kept = before == now ? *sum : *sum * __builtin_expf(before - now);
  *sum = kept + hsum(s0 + s1);
  *largest = now;
}

// The same logits become their gradient: spread * softmax - hit * [item is target].
RE_NOINLINE void to_gradient(const CatalogueLoss& p, int64_t row, int64_t item, int64_t count, float lse, float spread,
                             float hit, float* x) {
  if (p.row_key) leave_out(p, row, item, count, x);
  const vf shift = splat(lse), weight = splat(spread);
  for (int64_t j = 0; j < NB; j += 2 * W) {
    store(x + j, weight * vexp(load(x + j) - shift));
    store(x + j + W, weight * vexp(load(x + j + W) - shift));
  }
  const int64_t at = p.target[row] - item;
  if (at >= 0 && at < count) x[at] -= hit;
}

}  // namespace KERN_NS
