#include "softmax_loss/kernels.h"

#include "common/gemm.h"
#include "common/rows.h"

// Linear cross-entropy. A step takes `items` items and some rows: the logits of a few rows against those
// items fill a tile that stays in the cache, and everything that needs them happens there. The forward pass
// keeps a running maximum and sum; the backward pass turns the logits into their gradient and multiplies it
// into both operands' gradients at once. No logit ever reaches memory.
namespace KERN_NS {

using recengine::CatalogueLoss;
using recengine::CatalogueScratch;
using recengine::CatalogueTiles;
using recengine::MutableMatrix;

namespace {

constexpr int NB = 192;            // items of a step: a multiple of MR and of NR on every instruction set
constexpr int UB = 8 * MR;         // rows of a backward step
constexpr float LOWEST = -1e30f;   // stands in for minus infinity: differences of it stay finite
static_assert(NB % MR == 0 && NB % NR == 0 && UB % MR == 0);

RE_INLINE int64_t padded(int64_t width) { return (width + NR - 1) / NR * NR; }

// Item rows as the right operand of the logits: [NB/NR][width][NR]; items past the end are zero.
void pack_items(const CatalogueLoss& p, int64_t item, int64_t count, float* panels, float* row) {
  for (int64_t x = 0; x < NB; ++x) {
    float* to = panels + x / NR * NR * p.width + x % NR;
    if (x < count) {
      const float* w = read_row(p.weight, item + x, p.width, row);
      for (int64_t k = 0; k < p.width; ++k) to[k * NR] = w[k];
    } else {
      for (int64_t k = 0; k < p.width; ++k) to[k * NR] = 0.f;
    }
  }
}

// Item rows as the right operand of the hidden gradient, scaled: [padded/NR][NB][NR].
void pack_items_scaled(const CatalogueLoss& p, int64_t item, int64_t count, float* panels, float* row) {
  const int64_t wide = padded(p.width);
  std::memset(panels, 0, sizeof(float) * static_cast<size_t>(NB * wide));
  for (int64_t x = 0; x < count; ++x) {
    const float* w = read_row(p.weight, item + x, p.width, row);
    for (int64_t k = 0; k < p.width; ++k) panels[(k / NR * NB + x) * NR + k % NR] = p.scale * w[k];
  }
}

void fill_bias(const CatalogueLoss& p, int64_t item, int64_t count, float* bias) {
  for (int64_t x = 0; x < NB; ++x) bias[x] = x >= count ? LOWEST : p.bias ? p.bias[item + x] : 0.f;
}

// The logits of one group of rows against a step's items, into tile [MR][NB].
RE_INLINE void logits(const CatalogueLoss& p, const float* left, const float* panels, const float* bias, float* tile) {
  const vf scale = splat(p.scale);
  for (int64_t j = 0; j < NB; j += NR) {
    const vf b0 = load(bias + j), b1 = load(bias + j + W);
    micro(p.width, left, panels + j * p.width, [&](int i, vf x, vf y) {
      store(tile + i * NB + j, x * scale + b0);
      store(tile + i * NB + j + W, y * scale + b1);
    });
  }
}

}  // namespace

CatalogueTiles catalogue_tiles() { return {MR, UB, NB, NR}; }

CatalogueScratch catalogue_scratch(const CatalogueLoss& p) {
  const int64_t wide = padded(p.width);
  const int64_t forward = NB * p.width + MR * NB + NB + wide;
  return {forward, NB * p.width + 2 * NB * wide + UB * NB + NB + wide};
}

void catalogue_pack_rows(const CatalogueLoss& p, int64_t row, float* left, float* right) {
  const int64_t wide = padded(p.width);
  if (right) std::memset(right, 0, sizeof(float) * static_cast<size_t>(UB * wide));
  for (int64_t i = 0; i < UB; ++i) {
    float* to = left + i / MR * MR * p.width + i % MR;
    if (row + i >= p.rows) {
      for (int64_t k = 0; k < p.width; ++k) to[k * MR] = 0.f;
      continue;
    }
    float buffer[64];
    for (int64_t k0 = 0; k0 < p.width; k0 += 64) {
      const int64_t n = p.width - k0 < 64 ? p.width - k0 : 64;
      recengine::Matrix part = p.hidden;
      const int64_t size = part.bf16 ? 2 : 4;
      part.data = static_cast<const char*>(part.data) + k0 * part.col * size;
      const float* h = read_row(part, p.index[row + i], n, buffer);
      for (int64_t k = 0; k < n; ++k) to[(k0 + k) * MR] = h[k];
      if (right)
        for (int64_t k = 0; k < n; ++k) right[((k0 + k) / NR * UB + i) * NR + (k0 + k) % NR] = p.scale * h[k];
    }
  }
}

void catalogue_forward(const CatalogueLoss& p, const float* left, int64_t row, int64_t rows, int64_t block,
                       int64_t block_end, float* largest, float* sum, float* scratch) {
  float* panels = scratch;
  float* tile = panels + NB * p.width;
  float* bias = tile + MR * NB;
  float* line = bias + NB;
  (void)row;
  for (int64_t r = 0; r < rows; ++r) largest[r] = LOWEST, sum[r] = 0.f;
  for (int64_t b = block; b < block_end; ++b) {
    const int64_t item = b * NB, count = p.items - item < NB ? p.items - item : NB;
    pack_items(p, item, count, panels, line);
    fill_bias(p, item, count, bias);
    for (int64_t g = 0; g < rows; g += MR) {
      logits(p, left + g * p.width, panels, bias, tile);
      for (int64_t r = g; r < rows && r < g + MR; ++r) {
        const float* x = tile + (r - g) * NB;
        vf top0 = load(x), top1 = load(x + W);
        for (int64_t j = 2 * W; j < NB; j += 2 * W) {
          top0 = vmax(top0, load(x + j));
          top1 = vmax(top1, load(x + j + W));
        }
        const float found = hmax(vmax(top0, top1));
        const float before = largest[r], now = found > before ? found : before;
        const vf shift = splat(now);
        vf s0{}, s1{};
        for (int64_t j = 0; j < NB; j += 2 * W) {
          s0 += vexp(load(x + j) - shift);
          s1 += vexp(load(x + j + W) - shift);
        }
        const float kept = before == now ? sum[r] : sum[r] * __builtin_expf(before - now);
        sum[r] = kept + hsum(s0 + s1);
        largest[r] = now;
      }
    }
  }
}

void catalogue_finish(const CatalogueLoss& p, int64_t row, const float* largest, const float* sum, int64_t parts,
                      int64_t stride, float* loss, float* lse, float* scratch) {
  float top = LOWEST, total = 0.f;
  for (int64_t s = 0; s < parts; ++s) top = largest[s * stride] > top ? largest[s * stride] : top;
  for (int64_t s = 0; s < parts; ++s) total += sum[s * stride] * __builtin_expf(largest[s * stride] - top);
  const int64_t item = p.target[row], wide = padded(p.width);
  const float* h = read_row(p.hidden, p.index[row], p.width, scratch);
  const float* w = read_row(p.weight, item, p.width, scratch + wide);
  vf dot{};
  int64_t k = 0;
  for (; k + W <= p.width; k += W) dot += load(h + k) * load(w + k);
  if (k < p.width) dot += load_n(h + k, static_cast<int>(p.width - k)) * load_n(w + k, static_cast<int>(p.width - k));
  *lse = top + __builtin_logf(total);
  *loss = *lse - (p.scale * hsum(dot) + (p.bias ? p.bias[item] : 0.f));
}

void catalogue_backward(const CatalogueLoss& p, const float* left, const float* right, int64_t row, int64_t rows,
                        int64_t block, int64_t block_end, const float* lse, const float* grad, float* hidden_part,
                        float* weight_sum, float* bias_sum, bool first, float* scratch) {
  const int64_t wide = padded(p.width);
  float* panels = scratch;
  float* items = panels + NB * p.width;
  float* change = items + NB * wide;  // gradient of this step's items [NB][wide]
  float* tile = change + NB * wide;
  float* bias = tile + UB * NB;
  float* line = bias + NB;
  for (int64_t b = block; b < block_end; ++b) {
    const int64_t item = b * NB, count = p.items - item < NB ? p.items - item : NB;
    pack_items(p, item, count, panels, line);
    pack_items_scaled(p, item, count, items, line);
    fill_bias(p, item, count, bias);
    std::memset(change, 0, sizeof(float) * static_cast<size_t>(NB * wide));
    if (bias_sum && first) std::memset(bias_sum + item, 0, sizeof(float) * static_cast<size_t>(count));
    for (int64_t u = 0; u < rows; u += UB) {
      for (int64_t g = 0; g < UB; g += MR) {
        float* part = tile + g * NB;
        if (u + g >= rows) {
          std::memset(part, 0, sizeof(float) * MR * NB);
          continue;
        }
        logits(p, left + (u + g) * p.width, panels, bias, part);
        for (int i = 0; i < MR; ++i) {
          float* x = part + i * NB;
          const int64_t r = u + g + i;
          if (r >= rows) {
            std::memset(x, 0, sizeof(float) * NB);
            continue;
          }
          const vf shift = splat(lse[r]), weight = splat(grad[r]);
          for (int64_t j = 0; j < NB; j += 2 * W) {
            store(x + j, weight * vexp(load(x + j) - shift));
            store(x + j + W, weight * vexp(load(x + j + W) - shift));
          }
          const int64_t hit = p.target[row + r] - item;
          if (hit >= 0 && hit < count) x[hit] -= grad[r];
        }
        if (bias_sum)
          for (int64_t i = 0; i < MR; ++i)
            for (int64_t j = 0; j < count; ++j) bias_sum[item + j] += part[i * NB + j];
        for (int64_t j = 0; j < wide; j += NR) {
          float* to = hidden_part + (u + g) * wide + j;
          micro_in_place<NB, 1>(NB, part, items + j * NB, [&](int i, vf x, vf y) {
            store(to + i * wide, load(to + i * wide) + x);
            store(to + i * wide + W, load(to + i * wide + W) + y);
          });
        }
      }
      for (int64_t j = 0; j < wide; j += NR)
        for (int64_t x0 = 0; x0 < NB; x0 += MR) {
          float* to = change + x0 * wide + j;
          micro_in_place<1, NB>(UB, tile + x0, right + (u * wide + j * UB), [&](int i, vf x, vf y) {
            store(to + i * wide, load(to + i * wide) + x);
            store(to + i * wide + W, load(to + i * wide + W) + y);
          });
        }
    }
    for (int64_t x = 0; x < count; ++x) {
      float* to = weight_sum + (item + x) * p.width;
      const float* from = change + x * wide;
      if (first)
        std::memcpy(to, from, sizeof(float) * static_cast<size_t>(p.width));
      else
        for (int64_t k = 0; k < p.width; ++k) to[k] += from[k];
    }
  }
}

void catalogue_sum_parts(const float* parts, int64_t count, int64_t stride, int64_t width, const MutableMatrix& out,
                         int64_t out_row, float* scratch) {
  for (int64_t k = 0; k < width; ++k) scratch[k] = parts[k];
  for (int64_t s = 1; s < count; ++s)
    for (int64_t k = 0; k < width; ++k) scratch[k] += parts[s * stride + k];
  write_row(out, out_row, width, scratch);
}

}  // namespace KERN_NS
