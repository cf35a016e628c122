// Linear cross-entropy on units that multiply bf16 (bf16_gemm.h): float32 operands and the gradient of their logits in
// three parts (tiles), bfloat16 operands in one and the gradient of their logits in two (tiles) or one (dots). The same
// steps as on float32 vectors; a logit is made twice from the same blocks in the same order, so both passes see equal bits.
#pragma once

#include "common/bf16_dots.h"
#include "common/bf16_tiles.h"
#include "softmax_loss/catalogue.h"

#ifdef RECENGINE_AMX

namespace KERN_NS {

template <int PARTS, class Unit = Bf16Tiles>
struct TiledCatalogue {
  static constexpr int CHANGE = PARTS == 3 ? 3 : Unit::BETWEEN;  // parts of a gradient of the logits
  static constexpr int64_t PANELS = NB / BLOCK, GROUPS = UB / BLOCK;
  static constexpr int64_t SIZE = PARTS * BLOCK_WORDS, CHANGE_SIZE = CHANGE * BLOCK_WORDS;
  static_assert(NB % BLOCK == 0 && UB % BLOCK == 0 && NR == BLOCK);

  static recengine::CatalogueScratch scratch(const CatalogueLoss& p) {
    const int64_t steps = in_blocks(p.width), items = PANELS * steps * SIZE, rows = GROUPS * steps * SIZE;
    return {items + BLOCK * NB + NB + MOST_ROWS * LANES,
            2 * items + steps * BLOCK * NB + BLOCK * NB + PANELS * (1 + GROUPS) * CHANGE_SIZE + NB, rows, rows};
  }

  template <int LEFT, int RIGHT, bool ADD>
  static RE_INLINE void product(int64_t steps, const float* A, const float* B, float* C, int64_t ldc) {
    Unit::template product<LEFT, RIGHT, ADD>(steps, A, B, C, ldc, [] {});
  }

  // left: [group][step], rows by width. right: [step][group], width by rows, or null.
  static __attribute__((noinline)) void pack_rows(const CatalogueLoss& p, int64_t row, float* left, float* right) {
    const int64_t steps = in_blocks(p.width);
    alignas(64) float block[BLOCK * BLOCK];
    for (int64_t g = 0; g < GROUPS; ++g) {
      const int64_t* index = p.index + row + g * BLOCK;
      for (int64_t s = 0; s < steps; ++s) {
        stage_block(p.hidden, [index](int64_t i) { return index[i]; }, p.rows - row - g * BLOCK, s * BLOCK, p.width, block);
        float* across = right ? right + (s * GROUPS + g) * SIZE : nullptr;
        pack_block<PARTS>(block, BLOCK, left + (g * steps + s) * SIZE, across);
        if (right) transpose_block_words<PARTS>(across);
      }
    }
  }

  // for_logits: [panel][step], width by items. for_rows: [step][panel], items by width, or null.
  static __attribute__((noinline)) void pack_items(const CatalogueLoss& p, int64_t item, int64_t count, float* for_logits,
                                            float* for_rows) {
    const int64_t steps = in_blocks(p.width);
    alignas(64) float block[BLOCK * BLOCK];
    for (int64_t v = 0; v < PANELS; ++v)
      for (int64_t s = 0; s < steps; ++s) {
        const int64_t first = item + v * BLOCK;
        stage_block(p.weight, [first](int64_t i) { return first + i; }, count - v * BLOCK, s * BLOCK, p.width, block);
        float* across = for_logits + (v * steps + s) * SIZE;
        pack_block<PARTS>(block, BLOCK, across, for_rows ? for_rows + (s * PANELS + v) * SIZE : nullptr);
        transpose_block_words<PARTS>(across);
      }
  }

  // Whether the logits of a step are the scale times the products, nothing added, nothing left out.
  static RE_INLINE bool is_plain(const CatalogueLoss& p, int64_t count) {
    return p.scale > 0 && !p.bias && !p.row_key && count == NB;
  }

  // The logits (plain: without the scale) of a group of rows against a step's items, into tile [32][NB].
  static __attribute__((noinline)) void logits(const CatalogueLoss& p, const float* left, const float* panels, const float* bias,
                                        bool plain, float* tile) {
    const int64_t steps = in_blocks(p.width);
    for (int64_t v = 0; v < PANELS; ++v)
      product<PARTS, PARTS, false>(steps, left, panels + v * steps * SIZE, tile + v * BLOCK, NB);
    if (plain) return;
    const vf scale = splat(p.scale);
    for (int64_t i = 0; i < BLOCK; ++i)
      for (int64_t j = 0; j < NB; j += W) store(tile + i * NB + j, load(tile + i * NB + j) * scale + load(bias + j));
  }

  static void forward(const CatalogueLoss& p, const float* left, int64_t row, int64_t rows, int64_t block,
                      int64_t block_end, float* largest, float* sum, float* scratch) {
    const typename Unit::Scope scope;
    const int64_t steps = in_blocks(p.width);
    float* panels = scratch;
    float* tile = panels + PANELS * steps * SIZE;
    float* bias = tile + BLOCK * NB;
    float* lanes = bias + NB;
    clear_lanes(rows, lanes);
    for (int64_t b = block; b < block_end; ++b) {
      const int64_t item = b * NB, count = p.items - item < NB ? p.items - item : NB;
      pack_items(p, item, count, panels, nullptr);
      fill_bias(p, item, count, bias);
      const bool plain = is_plain(p, count);
      for (int64_t g = 0; g < rows; g += BLOCK) {
        logits(p, left + g / BLOCK * steps * SIZE, panels, bias, plain, tile);
        for (int64_t r = g; r < rows && r < g + BLOCK; ++r)
          add_logits(p, row + r, item, count, plain ? p.scale : 1.f, tile + (r - g) * NB, lanes + r * LANES);
      }
    }
    join_lanes(rows, lanes, largest, sum);
  }

  // change [width][NB] onto rows of the items' gradient.
  static __attribute__((noinline)) void add_change(const CatalogueLoss& p, const float* change, int64_t item, int64_t count,
                                            bool first, float* weight_sum) {
    for (int64_t x = 0; x < count; x += W)
      for (int64_t k = 0; k < p.width; k += W) {
        float across[W * W];
        transpose_block(change + k * NB + x, NB, across, W);
        const int n = static_cast<int>(p.width - k < W ? p.width - k : W);
        for (int64_t i = 0; i < W && x + i < count; ++i) {
          float* to = weight_sum + (item + x + i) * p.width + k;
          if (n == W)
            store(to, first ? load(across + i * W) : load(to) + load(across + i * W));
          else
            store_n(to, first ? load(across + i * W) : load_n(to, n) + load(across + i * W), n);
        }
      }
  }

  static void backward(const CatalogueLoss& p, const float* left, const float* right, int64_t row, int64_t rows,
                       int64_t block, int64_t block_end, const float* lse, const float* spread, const float* hit,
                       float* hidden_part, float* weight_sum, float* bias_sum, bool first, float* scratch) {
    const typename Unit::Scope scope;
    const int64_t steps = in_blocks(p.width), wide = steps * BLOCK;
    float* panels = scratch;
    float* items = panels + PANELS * steps * SIZE;
    float* change = items + PANELS * steps * SIZE;  // gradient of this step's items, [wide][NB]
    float* tile = change + wide * NB;
    float* by_rows = tile + BLOCK * NB;                       // gradient of the logits: rows by items, [panel]
    float* by_items = by_rows + PANELS * CHANGE_SIZE;         // and as right operand, [panel][group]
    float* bias = by_items + PANELS * GROUPS * CHANGE_SIZE;
    for (int64_t b = block; b < block_end; ++b) {
      const int64_t item = b * NB, count = p.items - item < NB ? p.items - item : NB;
      pack_items(p, item, count, panels, items);
      fill_bias(p, item, count, bias);
      const bool plain = is_plain(p, count);
      if (bias_sum && first) std::memset(bias_sum + item, 0, sizeof(float) * static_cast<size_t>(count));
      for (int64_t u = 0; u < rows; u += UB) {
        int64_t live = 0;
        for (; live < GROUPS && u + live * BLOCK < rows; ++live) {
          const int64_t at = u + live * BLOCK;
          logits(p, left + at / BLOCK * steps * SIZE, panels, bias, plain, tile);
          for (int64_t i = 0; i < BLOCK; ++i) {
            float* x = tile + i * NB;
            const int64_t r = at + i;
            if (r < rows)
              to_gradient(p, row + r, item, count, plain ? p.scale : 1.f, lse[r], spread[r], hit[r], x, x);
            else
              std::memset(x, 0, sizeof(float) * NB);
          }
          if (bias_sum)
            for (int64_t i = 0; i < BLOCK; ++i)
              for (int64_t j = 0; j < count; ++j) bias_sum[item + j] += tile[i * NB + j];
          if (p.scale != 1.f)
            for (int64_t j = 0; j < BLOCK * NB; j += W) store(tile + j, p.scale * load(tile + j));
          for (int64_t v = 0; v < PANELS; ++v)
            pack_block<CHANGE>(tile + v * BLOCK, NB, by_rows + v * CHANGE_SIZE, by_items + (v * GROUPS + live) * CHANGE_SIZE);
          for (int64_t s = 0; s < steps; ++s)
            product<CHANGE, PARTS, true>(PANELS, by_rows, items + s * PANELS * SIZE, hidden_part + at * wide + s * BLOCK,
                                               wide);
        }
        const float* rows_across = right + u / UB * GROUPS * steps * SIZE;
        for (int64_t s = 0; s < steps; ++s)
          for (int64_t v = 0; v < PANELS; ++v) {
            const float* a = rows_across + s * GROUPS * SIZE;
            const float* c = by_items + v * GROUPS * CHANGE_SIZE;
            float* to = change + s * BLOCK * NB + v * BLOCK;
            if (u == 0)
              product<PARTS, CHANGE, false>(live, a, c, to, NB);
            else
              product<PARTS, CHANGE, true>(live, a, c, to, NB);
          }
      }
      add_change(p, change, item, count, first, weight_sum);
    }
  }
};

}  // namespace KERN_NS
#endif
