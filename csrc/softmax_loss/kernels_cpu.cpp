#include "softmax_loss/kernels.h"

#include "common/gemm.h"
#include "common/rows.h"
#include "softmax_loss/catalogue.h"
#include "softmax_loss/catalogue_blocks.h"
#include "softmax_loss/competing.h"

// Linear cross-entropy. A step takes `items` items and some rows: the logits of a few rows against those
// items fill a tile that stays in the cache, and everything that needs them happens there. The forward pass
// keeps a running maximum and sum; the backward pass turns the logits into their gradient and multiplies it
// into both operands' gradients at once. No logit ever reaches memory, but where the caller asks to keep them
// (p.logits): the backward pass then makes none again.
namespace KERN_NS {

using recengine::CatalogueScratch;
using recengine::CatalogueTiles;
using recengine::GivenLogits;
using recengine::MutableMatrix;
using recengine::SampledLogSumExp;

namespace {

// Item rows as the right operand of the logits: [NB/NR][width][NR]; items past the end are zero.
RE_NOINLINE void pack_items(const CatalogueLoss& p, int64_t item, int64_t count, float* panels) {
  for (int64_t x = 0; x < NB; x += NR, panels += NR * p.width)
    pack_across<NR>(p.weight, [item, x](int64_t i) { return item + x + i; }, count - x, p.width, panels);
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

// The logits of one group of rows against a step's items, into tile [MR][NB].
RE_NOINLINE void logits(const CatalogueLoss& p, const float* left, const float* panels, const float* bias, float* tile) {
  const vf scale = splat(p.scale);
  for (int64_t j = 0; j < NB; j += NR) {
    const vf b0 = load(bias + j), b1 = load(bias + j + W);
    micro(p.width, left, panels + j * p.width, [&](int i, vf x, vf y) {
      store(tile + i * NB + j, x * scale + b0);
      store(tile + i * NB + j + W, y * scale + b1);
    });
  }
}

// Calls fn with the way of the processor's bf16 units to do it, where it has some that gain, and says so.
template <class F>
RE_INLINE bool on_bf16_unit(const CatalogueLoss& p, F&& fn) {
#ifdef RECENGINE_AMX
  const bool tiles = recengine::amx_live();
  if (tiles && p.weight.bf16)
    fn(TiledCatalogue<1>{});
  else if (tiles)
    fn(TiledCatalogue<3>{});
  else if (p.weight.bf16 && recengine::bf16_dots_live())
    fn(TiledCatalogue<1, Bf16Dots>{});
  else
    return false;
  return true;
#else
  (void)p, (void)fn;
  return false;
#endif
}

}  // namespace

CatalogueTiles catalogue_tiles() { return {UB, MOST_ROWS, NB, NR}; }

CatalogueScratch catalogue_scratch(const CatalogueLoss& p) {
  CatalogueScratch floats;
  if (on_bf16_unit(p, [&](auto tiled) { floats = tiled.scratch(p); })) return floats;
  const int64_t wide = padded(p.width);
  const int64_t forward = NB * p.width + MR * NB + NB + MOST_ROWS * LANES;
  return {forward, NB * p.width + 2 * NB * wide + UB * NB + NB + wide, UB * p.width, UB * wide};
}

void catalogue_pack_rows(const CatalogueLoss& p, int64_t row, float* left, float* right) {
  if (on_bf16_unit(p, [&](auto tiled) { tiled.pack_rows(p, row, left, right); })) return;
  for (int64_t g = 0; g < UB; g += MR) {
    const int64_t* index = p.index + row + g;
    pack_across<MR>(p.hidden, [index](int64_t i) { return index[i]; }, p.rows - row - g, p.width, left + g * p.width);
  }
  if (!right) return;
  const int64_t wide = padded(p.width);
  std::memset(right, 0, sizeof(float) * static_cast<size_t>(UB * wide));
  for (int64_t i = 0; i < UB && row + i < p.rows; ++i)
    for (int64_t k = 0; k < p.width; ++k)
      right[(k / NR * UB + i) * NR + k % NR] = p.scale * left[i / MR * MR * p.width + k * MR + i % MR];
}

void catalogue_forward(const CatalogueLoss& p, const float* left, int64_t row, int64_t rows, int64_t block,
                       int64_t block_end, float* largest, float* sum, float* scratch) {
  if (on_bf16_unit(p, [&](auto tiled) { tiled.forward(p, left, row, rows, block, block_end, largest, sum, scratch); })) return;
  float* panels = scratch;
  float* tile = panels + NB * p.width;
  float* bias = tile + MR * NB;
  float* lanes = bias + NB;
  clear_lanes(rows, lanes);
  for (int64_t b = block; b < block_end; ++b) {
    const int64_t item = b * NB, count = p.items - item < NB ? p.items - item : NB;
    pack_items(p, item, count, panels);
    fill_bias(p, item, count, bias);
    for (int64_t g = 0; g < rows; g += MR) {
      float* made = p.logits ? kept_tile(p, row + g, b) : tile;
      logits(p, left + g * p.width, panels, bias, made);
      for (int64_t r = g; r < rows && r < g + MR; ++r) {
        float* x = made + (r - g) * NB;
        add_logits(p, row + r, item, count, 1.f, x, lanes + r * LANES);
      }
    }
  }
  join_lanes(rows, lanes, largest, sum);
}

void catalogue_finish(const CatalogueLoss& p, int64_t row, const float* largest, const float* sum, int64_t parts,
                      int64_t stride, float* loss, float* lse, float* scratch) {
  float top = LOWEST, total = 0.f;
  for (int64_t s = 0; s < parts; ++s) top = largest[s * stride] > top ? largest[s * stride] : top;
  for (int64_t s = 0; s < parts; ++s) total += sum[s * stride] * __builtin_expf(largest[s * stride] - top);
  *lse = log_of_sum(top, total);
  const int64_t item = p.target[row], wide = padded(p.width);
  if (item < 0) {
    *loss = 0.f;
    return;
  }
  const float* h = read_row(p.hidden, p.index[row], p.width, scratch);
  const float* w = read_row(p.weight, item, p.width, scratch + wide);
  vf dot{};
  int64_t k = 0;
  for (; k + W <= p.width; k += W) dot += load(h + k) * load(w + k);
  if (k < p.width) dot += load_n(h + k, static_cast<int>(p.width - k)) * load_n(w + k, static_cast<int>(p.width - k));
  const float found = *lse - (p.scale * hsum(dot) + (p.bias ? p.bias[item] : 0.f));
  *loss = found < 0.f ? 0.f : found;  // both are rounded, the sum over all items in another order
}

void catalogue_backward(const CatalogueLoss& p, const float* left, const float* right, int64_t row, int64_t rows,
                        int64_t block, int64_t block_end, const float* lse, const float* spread, const float* hit,
                        float* hidden_part, float* weight_sum, float* bias_sum, bool first, float* scratch) {
  if (on_bf16_unit(p, [&](auto tiled) {
        tiled.backward(p, left, right, row, rows, block, block_end, lse, spread, hit, hidden_part, weight_sum, bias_sum,
                       first, scratch);
      }))
    return;
  const int64_t wide = padded(p.width);
  float* panels = scratch;
  float* items = panels + NB * p.width;
  float* change = items + NB * wide;  // gradient of this step's items [NB][wide]
  float* tile = change + NB * wide;
  float* bias = tile + UB * NB;
  float* line = bias + NB;
  for (int64_t b = block; b < block_end; ++b) {
    const int64_t item = b * NB, count = p.items - item < NB ? p.items - item : NB;
    pack_items_scaled(p, item, count, items, line);
    if (!p.logits) {
      pack_items(p, item, count, panels);
      fill_bias(p, item, count, bias);
    }
    std::memset(change, 0, sizeof(float) * static_cast<size_t>(NB * wide));
    if (bias_sum && first) std::memset(bias_sum + item, 0, sizeof(float) * static_cast<size_t>(count));
    for (int64_t u = 0; u < rows; u += UB) {
      for (int64_t g = 0; g < UB; g += MR) {
        float* part = tile + g * NB;
        if (u + g >= rows) {
          std::memset(part, 0, sizeof(float) * MR * NB);
          continue;
        }
        const float* made = part;
        if (p.logits)
          made = kept_tile(p, row + u + g, b);
        else
          logits(p, left + (u + g) * p.width, panels, bias, part);
        for (int i = 0; i < MR; ++i) {
          float* x = part + i * NB;
          const int64_t r = u + g + i;
          if (r >= rows) {
            std::memset(x, 0, sizeof(float) * NB);
            continue;
          }
          to_gradient(p, row + r, item, count, 1.f, lse[r], spread[r], hit[r], made + i * NB, x);
        }
        if (bias_sum)
          for (int64_t i = 0; i < MR; ++i)
            for (int64_t j = 0; j < count; ++j) bias_sum[item + j] += part[i * NB + j];
        for (int64_t j = 0; j < wide; j += NR) {
          tile_add_in_place<NB, 1>(NB, part, items + j * NB, hidden_part + (u + g) * wide + j, wide);
        }
      }
      for (int64_t j = 0; j < wide; j += NR)
        for (int64_t x0 = 0; x0 < NB; x0 += MR) {
          tile_add_in_place<1, NB>(UB, tile + x0, right + (u * wide + j * UB), change + x0 * wide + j, wide);
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

// --- sampled log-sum-exp

namespace {

// Table rows of W entries from j on: pointers to floats; entries that take no part point to row 0.
RE_INLINE void gather_rows(const SampledLogSumExp& p, int64_t b, int64_t j, const float** rows, int32_t* counts, float* buffer) {
  const int64_t entries = p.entries();
  for (int x = 0; x < W; ++x) {
    const int64_t n = j + x < entries ? p.id(b, j + x) : -1;
    counts[x] = n >= 0 ? -1 : 0;
    rows[x] = read_row(p.table, n < 0 ? 0 : n, p.width, buffer + x * p.width);
  }
}

RE_INLINE void prefetch_rows(const SampledLogSumExp& p, int64_t b, int64_t j) {
  const int64_t entries = p.entries(), size = p.table.bf16 ? 2 : 4;
  for (int64_t x = j; x < j + W && x < entries; ++x) {
    const int64_t n = p.id(b, x);
    const char* at = static_cast<const char*>(p.table.data) + (n < 0 ? 0 : n) * p.table.row * size;
    for (int64_t byte = 0; byte < p.width * size && byte < 512; byte += 64) __builtin_prefetch(at + byte);
  }
}

// Inner products of the anchor with W rows.
RE_INLINE vf inner_products(const float* anchor, const float* const* rows, int64_t width) {
  vf sums[W];
  for (int x = 0; x < W; ++x) sums[x] = vf{};
  int64_t k = 0;
  for (; k + W <= width; k += W) {
    const vf a = load(anchor + k);
#pragma GCC unroll 16
    for (int x = 0; x < W; ++x) sums[x] += a * load(rows[x] + k);
  }
  if (k < width) {
    const int rest = static_cast<int>(width - k);
    const vf a = load_n(anchor + k, rest);
    for (int x = 0; x < W; ++x) sums[x] += a * load_n(rows[x] + k, rest);
  }
  return sum_each(sums);
}

// Logits of W entries; those that take no part are LOWEST.
RE_INLINE vf entry_logits(const SampledLogSumExp& p, int64_t b, int64_t j, vf product, const int32_t* counts) {
  vf z = product * p.inverse[b];
  if (p.log_weight) {
    const float* w = p.log_weight + b * p.weight_row + j * p.weight_col;
    const int n = static_cast<int>(p.count - j < W ? p.count - j : W);
    if (p.weight_col == 1) {
      z += load_n(w, n < 0 ? 0 : n);
    } else {
      for (int x = 0; x < n; ++x) z[x] += w[x * p.weight_col];
    }
  }
  vi live;
  std::memcpy(&live, counts, sizeof(live));
  z = live != 0 ? z : splat(LOWEST);
  return z < LOWEST ? splat(LOWEST) : z;
}

// sum += each of W rows times its coefficient.
RE_INLINE void add_weighted(const float* const* rows, vf coefficient, int64_t width, float* sum) {
  int64_t k = 0;
  for (; k + W <= width; k += W) {
    vf s0 = load(sum + k), s1{};
#pragma GCC unroll 16
    for (int x = 0; x < W; x += 2) {
      s0 += coefficient[x] * load(rows[x] + k);
      s1 += coefficient[x + 1] * load(rows[x + 1] + k);
    }
    store(sum + k, s0 + s1);
  }
  for (; k < width; ++k)
    for (int x = 0; x < W; ++x) sum[k] += coefficient[x] * rows[x][k];
}

}  // namespace

int64_t sampled_scratch(const SampledLogSumExp& p) {
  return (p.entries() + W - 1) / W * W + (W + 2) * (p.width + W);
}

float sampled_forward(const SampledLogSumExp& p, int64_t b, float* scratch) {
  const int64_t entries = p.entries();
  float* z = scratch;
  float* line = z + (entries + W - 1) / W * W;
  float* buffer = line + p.width + W;
  const float* anchor = read_row(p.anchors, b, p.width, line);
  const float* rows[W];
  int32_t counts[W];
  vf top = splat(LOWEST);
  for (int64_t j = 0; j < entries; j += W) {
    prefetch_rows(p, b, j + 2 * W);
    gather_rows(p, b, j, rows, counts, buffer);
    const vf logit = entry_logits(p, b, j, inner_products(anchor, rows, p.width), counts);
    store(z + j, logit);
    top = vmax(top, logit);
  }
  const float largest = hmax(top);
  vf sum{};
  for (int64_t j = 0; j < entries; j += W) sum += vexp(load(z + j) - largest);
  return log_of_sum(largest, hsum(sum));
}

void sampled_scores(const SampledLogSumExp& p, int64_t b, float* scores, float* scratch) {
  const int64_t entries = p.entries();
  float* buffer = scratch + p.width + W;
  const float* anchor = read_row(p.anchors, b, p.width, scratch);
  const float* rows[W];
  int32_t counts[W];
  for (int64_t j = 0; j < entries; j += W) {
    prefetch_rows(p, b, j + 2 * W);
    gather_rows(p, b, j, rows, counts, buffer);
    vi live;
    std::memcpy(&live, counts, sizeof(live));
    const vf product = inner_products(anchor, rows, p.width) * p.inverse[b];
    store_n(scores + j, live != 0 ? product : vf{}, static_cast<int>(entries - j < W ? entries - j : W));
  }
}

void sampled_weigh(const SampledLogSumExp& p, int64_t b, const float* coefficient, const MutableMatrix& anchor_grad,
                   float* scratch) {
  const int64_t entries = p.entries();
  float* sum = scratch;
  float* buffer = sum + p.width + W;
  for (int64_t k = 0; k < p.width; ++k) sum[k] = 0.f;
  const float* rows[W];
  int32_t counts[W];
  for (int64_t j = 0; j < entries; j += W) {
    prefetch_rows(p, b, j + 2 * W);
    gather_rows(p, b, j, rows, counts, buffer);
    vi live;
    std::memcpy(&live, counts, sizeof(live));
    const vf given = load_n(coefficient + j, static_cast<int>(entries - j < W ? entries - j : W)) * p.inverse[b];
    add_weighted(rows, live != 0 ? given : vf{}, p.width, sum);
  }
  write_row(anchor_grad, b, p.width, sum);
}

float sampled_backward(const SampledLogSumExp& p, int64_t b, float lse, float grad, float* share,
                       const MutableMatrix& anchor_grad, float* scratch) {
  const int64_t entries = p.entries();
  float* line = scratch;
  float* sum = line + p.width + W;
  float* buffer = sum + p.width + W;
  for (int64_t k = 0; k < p.width; ++k) sum[k] = 0.f;
  if (lse == -__builtin_inff()) {
    for (int64_t j = 0; j < entries; ++j) share[j] = 0.f;
    write_row(anchor_grad, b, p.width, sum);
    return 0.f;
  }
  const float* anchor = read_row(p.anchors, b, p.width, line);
  const float* rows[W];
  int32_t counts[W];
  vf inverse_grad{};
  for (int64_t j = 0; j < entries; j += W) {
    prefetch_rows(p, b, j + 2 * W);
    gather_rows(p, b, j, rows, counts, buffer);
    const vf product = inner_products(anchor, rows, p.width);
    const vf z = entry_logits(p, b, j, product, counts);
    vf part = grad * vexp(z - lse);
    part = z <= LOWEST ? vf{} : part;  // a NaN stays
    inverse_grad += part * (z <= LOWEST ? vf{} : product);
    store_n(share + j, part, static_cast<int>(entries - j < W ? entries - j : W));
    add_weighted(rows, part * p.inverse[b], p.width, sum);
  }
  write_row(anchor_grad, b, p.width, sum);
  return hsum(inverse_grad);
}

void sampled_read_anchor(const SampledLogSumExp& p, int64_t b, float* to) {
  const float* from = read_row(p.anchors, b, p.width, to);
  if (from != to) std::memcpy(to, from, sizeof(float) * static_cast<size_t>(p.width));
}

void sampled_table_row(const float* anchors, int64_t width, const int32_t* row, const float* coefficient, int64_t count,
                       int64_t item, const MutableMatrix& table_grad, float* scratch) {
  int64_t k = 0;
  for (; k + 4 * W <= width; k += 4 * W) {
    vf s0{}, s1{}, s2{}, s3{};
    for (int64_t e = 0; e < count; ++e) {
      const float* a = anchors + row[e] * width + k;
      const vf c = splat(coefficient[e]);
      s0 += c * load(a);
      s1 += c * load(a + W);
      s2 += c * load(a + 2 * W);
      s3 += c * load(a + 3 * W);
    }
    store(scratch + k, s0);
    store(scratch + k + W, s1);
    store(scratch + k + 2 * W, s2);
    store(scratch + k + 3 * W, s3);
  }
  for (; k < width; k += W) {
    const int n = static_cast<int>(width - k < W ? width - k : W);
    vf s{};
    for (int64_t e = 0; e < count; ++e) s += splat(coefficient[e]) * load_n(anchors + row[e] * width + k, n);
    store_n(scratch + k, s, n);
  }
  write_row(table_grad, item, width, scratch);
}

// --- log-sum-exp of logits that exist already

namespace {

RE_INLINE int64_t given_width(const GivenLogits& p) { return (p.count + W - 1) / W * W; }

// Row b with LOWEST where nothing takes part, up to a multiple of W.
RE_INLINE void read_given(const GivenLogits& p, int64_t b, float* z) {
  const float* from = read_row(p.logits, b, p.count, z);
  if (p.live && p.live_col == 1) {
    const uint8_t* live = p.live + b * p.live_row;
    for (int64_t j = 0; j < p.count; ++j) z[j] = live[j] == 0 || from[j] < LOWEST ? LOWEST : from[j];
  } else if (p.live) {
    const uint8_t* live = p.live + b * p.live_row;
    for (int64_t j = 0; j < p.count; ++j) z[j] = live[j * p.live_col] == 0 || from[j] < LOWEST ? LOWEST : from[j];
  } else {
    for (int64_t j = 0; j < p.count; ++j) z[j] = from[j] < LOWEST ? LOWEST : from[j];
  }
  for (int64_t j = p.count; j < given_width(p); ++j) z[j] = LOWEST;
}

}  // namespace

int64_t given_scratch(const GivenLogits& p) { return given_width(p); }

float given_forward(const GivenLogits& p, int64_t b, float* scratch) {
  if (p.count == 0) return -__builtin_inff();
  read_given(p, b, scratch);
  vf top = splat(LOWEST), sum{};
  for (int64_t j = 0; j < p.count; j += W) top = vmax(top, load(scratch + j));
  const float largest = hmax(top);
  for (int64_t j = 0; j < p.count; j += W) sum += vexp(load(scratch + j) - largest);
  return log_of_sum(largest, hsum(sum));
}

void given_backward(const GivenLogits& p, int64_t b, float lse, float grad, const MutableMatrix& logits_grad,
                    float* scratch) {
  if (p.count == 0) return;
  if (lse == -__builtin_inff()) {
    for (int64_t j = 0; j < p.count; ++j) scratch[j] = 0.f;
  } else {
    read_given(p, b, scratch);
    for (int64_t j = 0; j < p.count; j += W) {
      const vf z = load(scratch + j);
      const vf share = grad * vexp(z - lse);
      store(scratch + j, z <= LOWEST ? vf{} : share);
    }
  }
  write_row(logits_grad, b, p.count, scratch);
}

}  // namespace KERN_NS
