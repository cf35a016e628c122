// SwiGLU experts on bf16 matrix tiles (amx_gemm.h): float32 rows and weights in three parts; bfloat16 ones in one
// part, and then what lies between two products (activations, gradients) in two.
//
// An expert's weights are packed once, in the order in which they are read; the rows go through them GROUPS blocks
// at a time, so that all that is packed of the rows stays in the second-level cache, and products are cut into
// runs of CHUNK blocks of the inner dimension, so that one operand stays in the first.
#pragma once

#include "common/amx_gemm.h"
#include "moe/kernels.h"

#ifdef RECENGINE_AMX

namespace KERN_NS {

template <int PARTS>
struct TiledSwiglu {
  using Expert = recengine::Expert;
  using Matrix = recengine::Matrix;
  using ExpertRows = recengine::ExpertRows;
  using ExpertGradient = recengine::ExpertGradient;

  static constexpr int BETWEEN = PARTS == 3 ? 3 : 2;  // parts of what lies between two products
  static constexpr int64_t SIZE = PARTS * BLOCK_WORDS, BETWEEN_SIZE = BETWEEN * BLOCK_WORDS, TILE = BLOCK * BLOCK;
  static constexpr int64_t FORWARD_STRIPS = 4, BACKWARD_STRIPS = 2;  // blocks of the hidden layer at a time
  static constexpr int64_t GROUPS = 4;                               // blocks of rows at a time
  static constexpr int64_t CHUNK = PARTS == 3 ? 4 : 8;

  static RE_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
  static RE_INLINE int64_t groups_of(int64_t rows) { return smaller(in_blocks(rows), GROUPS); }

  static int64_t packed_size(int64_t width, int64_t hidden) { return 3 * in_blocks(hidden) * in_blocks(width) * SIZE; }
  static int64_t forward_scratch(int64_t width, int64_t hidden, int64_t rows) {
    const int64_t steps = in_blocks(width), groups = groups_of(rows);
    return packed_size(width, hidden) + groups * (steps * (SIZE + TILE) + FORWARD_STRIPS * BETWEEN_SIZE) +
           2 * FORWARD_STRIPS * TILE;
  }
  static int64_t backward_scratch(int64_t width, int64_t hidden, int64_t rows) {
    const int64_t steps = in_blocks(width), groups = groups_of(rows);
    return 5 * in_blocks(hidden) * steps * SIZE + groups * steps * (4 * SIZE + TILE) +
           BACKWARD_STRIPS * (5 * groups * BETWEEN_SIZE + 3 * TILE) + groups * BLOCK + 3 * TILE;
  }

  // Block (row, col) of the weight m of rows x cols, as left and right operands.
  static RE_INLINE void pack_weight(const Matrix& m, int64_t row, int64_t rows, int64_t col, int64_t cols, float* left,
                                    float* right) {
    pack_piece<PARTS>(m, [row](int64_t i) { return row + i; }, rows - row, col, cols, left, right);
  }

  // By runs of strips: gate and up as right operands [strip][2][step], then down [step][strip].
  static __attribute__((noinline)) void pack(const Expert& e, float* to) {
    const int64_t all = in_blocks(e.hidden), steps = in_blocks(e.width);
    for (int64_t strip = 0; strip < all; strip += FORWARD_STRIPS) {
      const int64_t end = strip + smaller(all - strip, FORWARD_STRIPS);
      for (int64_t s = strip; s < end; ++s)
        for (int m = 0; m < 2; ++m)
          for (int64_t k = 0; k < steps; ++k, to += SIZE)
            pack_weight(m ? e.up : e.gate, k * BLOCK, e.width, s * BLOCK, e.hidden, nullptr, to);
      for (int64_t j = 0; j < steps; ++j)
        for (int64_t s = strip; s < end; ++s, to += SIZE)
          pack_weight(e.down, s * BLOCK, e.hidden, j * BLOCK, e.width, nullptr, to);
    }
  }

  // Rows index[0, count) of x as left operands [group][step] and, unless null, their blocks transposed as left
  // operands (across) and as right operands (right), both [step][group].
  static __attribute__((noinline)) void pack_rows(const Matrix& x, const int64_t* index, int64_t count, int64_t width,
                                                  float* left, float* across, float* right) {
    const int64_t steps = in_blocks(width), groups = in_blocks(count);
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t* id = index + g * BLOCK;
      for (int64_t s = 0; s < steps; ++s) {
        const int64_t turned = (s * groups + g) * SIZE;
        float* to = across ? across + turned : right ? right + turned : nullptr;
        pack_piece<PARTS>(x, [id](int64_t i) { return id[i]; }, count - g * BLOCK, s * BLOCK, width,
                          left + (g * steps + s) * SIZE, to);
        if (across) transpose_block_words<PARTS>(to);
      }
    }
  }

  // `count` products C[i] of the left operand A with B + i * b_step, over `steps` blocks.
  static RE_INLINE void products(int64_t count, int64_t steps, const float* A, const float* B, int64_t b_step, float* C,
                                 int64_t c_step) {
    for (int64_t at = 0; at < steps; at += CHUNK) {
      const int64_t n = smaller(CHUNK, steps - at);
      for (int64_t i = 0; i < count; ++i) {
        const float* b = B + i * b_step + at * SIZE;
        if (at == 0)
          block_product<PARTS, PARTS, false>(n, A, b, C + i * c_step, BLOCK);
        else
          block_product<PARTS, PARTS, true>(n, A + at * SIZE, b, C + i * c_step, BLOCK);
      }
    }
  }

  static RE_INLINE vf sigmoid(vf x) {
    const vf d = 1.f + vexp(-x), y = _mm512_rcp14_ps(d);
    return y * (2.f - d * y);  // one step of Newton's: 14 bits become 28
  }

  // to[index[r] - first] += scale[r] * from[r], rows of `wide`.
  static RE_INLINE void add_rows(const float* from, const int64_t* index, const float* scale, int64_t count, int64_t first,
                                 int64_t wide, float* to) {
    for (int64_t r = 0; r < count; ++r, from += wide) {
      float* row = to + (index[r] - first) * wide;
      const vf s = splat(scale ? scale[r] : 1.f);
      for (int64_t k = 0; k < wide; k += W) store(row + k, load(row + k) + s * load(from + k));
    }
  }

  static void forward(const Expert& e, const Matrix& x, const ExpertRows& rows, int64_t first, float* sum, float* scratch) {
    const TileScope tiles;
    const int64_t steps = in_blocks(e.width), most = groups_of(rows.count), wide = steps * BLOCK, all = in_blocks(e.hidden);
    float* own = scratch;
    float* left = own + packed_size(e.width, e.hidden);
    float* hidden = left + most * steps * SIZE;  // [group][strip]
    float* out = hidden + most * FORWARD_STRIPS * BETWEEN_SIZE;
    float* before = out + most * steps * TILE;   // [strip][gate, up]
    if (!e.packed) pack(e, own);
    for (int64_t at = 0; at < rows.count; at += GROUPS * BLOCK) {
      const int64_t count = smaller(rows.count - at, GROUPS * BLOCK), groups = in_blocks(count);
      pack_rows(x, rows.index + at, count, e.width, left, nullptr, nullptr);
      const float* panels = e.packed ? e.packed : own;
      for (int64_t strip = 0; strip < all; strip += FORWARD_STRIPS) {
        const int64_t strips = smaller(all - strip, FORWARD_STRIPS);
        const float* down = panels + 2 * strips * steps * SIZE;
        for (int64_t g = 0; g < groups; ++g) {
          products(2 * strips, steps, left + g * steps * SIZE, panels, steps * SIZE, before, TILE);
          for (int64_t s = 0; s < strips; ++s) {
            float *gate = before + 2 * s * TILE, *linear = gate + TILE;
            for (int64_t c = 0; c < TILE; c += W) {
              const vf z = load(gate + c);
              store(gate + c, z * sigmoid(z) * load(linear + c));
            }
            pack_block<BETWEEN>(gate, BLOCK, hidden + (g * strips + s) * BETWEEN_SIZE, nullptr);
          }
        }
        for (int64_t g = 0; g < groups; ++g)
          for (int64_t j = 0; j < steps; ++j) {
            const float *a = hidden + g * strips * BETWEEN_SIZE, *b = down + j * strips * SIZE;
            float* to = out + g * BLOCK * wide + j * BLOCK;
            if (strip == 0)
              block_product<BETWEEN, PARTS, false>(strips, a, b, to, wide);
            else
              block_product<BETWEEN, PARTS, true>(strips, a, b, to, wide);
          }
        panels = down + steps * strips * SIZE;
      }
      add_rows(out, rows.index + at, rows.scale ? rows.scale + at : nullptr, count, first, wide, sum);
    }
  }

  // By runs of strips: gate and up as right operands [strip][2][step], down transposed [strip][step], then gate and
  // up transposed as right operands [step][gate strips, up strips].
  static __attribute__((noinline)) void pack_backward(const Expert& e, float* to) {
    const int64_t all = in_blocks(e.hidden), steps = in_blocks(e.width);
    for (int64_t strip = 0; strip < all; strip += BACKWARD_STRIPS) {
      const int64_t strips = smaller(all - strip, BACKWARD_STRIPS);
      float *down = to + 2 * strips * steps * SIZE, *across = down + strips * steps * SIZE;
      for (int64_t s = 0; s < strips; ++s)
        for (int64_t k = 0; k < steps; ++k) {
          const int64_t col = (strip + s) * BLOCK;
          for (int m = 0; m < 2; ++m) {
            float* turned = across + ((2 * k + m) * strips + s) * SIZE;
            pack_weight(m ? e.up : e.gate, k * BLOCK, e.width, col, e.hidden, turned, to + ((2 * s + m) * steps + k) * SIZE);
            transpose_block_words<PARTS>(turned);
          }
          float* turned = down + (s * steps + k) * SIZE;
          pack_weight(e.down, col, e.hidden, k * BLOCK, e.width, turned, nullptr);
          transpose_block_words<PARTS>(turned);
        }
      to = across + 2 * strips * steps * SIZE;
    }
  }

  // The gradient block (row, col) of a weight of rows x cols: the product over `steps` blocks, written or added.
  template <int LEFT, int RIGHT>
  static RE_INLINE void weight_gradient(int64_t steps, const float* A, const float* B, float* weight, int64_t row,
                                        int64_t rows, int64_t col, int64_t cols, bool fresh, float* tile) {
    float* to = weight + row * cols + col;
    if (row + BLOCK <= rows && col + BLOCK <= cols) {
      if (fresh)
        block_product<LEFT, RIGHT, false>(steps, A, B, to, cols);
      else
        block_product<LEFT, RIGHT, true>(steps, A, B, to, cols);
      return;
    }
    block_product<LEFT, RIGHT, false>(steps, A, B, tile, BLOCK);
    for (int64_t i = 0; i < BLOCK && row + i < rows; ++i, to += cols)
      for (int64_t c = 0; c < BLOCK && col + c < cols; ++c) to[c] = (fresh ? 0.f : to[c]) + tile[i * BLOCK + c];
  }

  static void backward(const Expert& e, const Matrix& x, const Matrix& grad, const ExpertRows& rows, int64_t first,
                       float* x_grad, const ExpertGradient& weights, float* scale_grad, float* scratch) {
    const TileScope tiles;
    const int64_t steps = in_blocks(e.width), most = groups_of(rows.count), wide = steps * BLOCK, all = in_blocks(e.hidden);
    const int64_t operand = most * steps * SIZE, between = most * BACKWARD_STRIPS * BETWEEN_SIZE;
    float* packed = scratch;
    float* left_x = packed + 5 * all * steps * SIZE;  // [group][step]
    float* left_grad = left_x + operand;
    float* across_x = left_grad + operand;            // [step][group]
    float* right_grad = across_x + operand;
    float* change = right_grad + operand;             // gradient of the gathered rows [rows][wide]
    float* to_left = change + most * BLOCK * wide;    // gradients before the activation [group][gate strips, up strips]
    float* rights = to_left + 2 * between;            // the same as right operands [gate, up][strip][group]
    float* active = rights + 2 * between;             // scaled activation across, [strip][group]
    float* before = active + between;                 // [strip][gate, up], then [strip] gradient of the activation
    float* inner = before + 3 * BACKWARD_STRIPS * TILE;  // <activation, its gradient> a row
    float* spare = inner + most * BLOCK;
    pack_backward(e, packed);
    for (int64_t at = 0; at < rows.count; at += GROUPS * BLOCK) {
      const int64_t count = smaller(rows.count - at, GROUPS * BLOCK), groups = in_blocks(count);
      const bool fresh = weights.fresh && at == 0;
      const int64_t* index = rows.index + at;
      pack_rows(x, index, count, e.width, left_x, across_x, nullptr);
      pack_rows(grad, index, count, e.width, left_grad, nullptr, right_grad);
      std::memset(inner, 0, sizeof(float) * static_cast<size_t>(groups * BLOCK));
      const float* panels = packed;
      for (int64_t strip = 0; strip < all; strip += BACKWARD_STRIPS) {
        const int64_t strips = smaller(all - strip, BACKWARD_STRIPS);
        const float *down = panels + 2 * strips * steps * SIZE, *turned = down + strips * steps * SIZE;
        for (int64_t g = 0; g < groups; ++g) {
          float* up_grads = before + 2 * strips * TILE;
          products(2 * strips, steps, left_x + g * steps * SIZE, panels, steps * SIZE, before, TILE);
          products(strips, steps, left_grad + g * steps * SIZE, down, steps * SIZE, up_grads, TILE);
          for (int64_t s = 0; s < strips; ++s) {
            float *gate = before + 2 * s * TILE, *linear = gate + TILE, *back = up_grads + s * TILE;
            for (int64_t i = 0; i < BLOCK; ++i) {
              const int64_t r = g * BLOCK + i;
              const vf scale = splat(rows.scale && r < count ? rows.scale[at + r] : 1.f);
              vf product{};
              for (int64_t c = i * BLOCK; c < (i + 1) * BLOCK; c += W) {
                const vf z = load(gate + c), u = load(linear + c), y = load(back + c);
                const vf open = sigmoid(z), swish = z * open, act = swish * u, scaled = scale * y;
                product += act * y;
                store(back + c, scale * act);
                store(gate + c, scaled * u * (open + swish * (1.f - open)));
                store(linear + c, scaled * swish);
              }
              if (scale_grad) inner[r] += hsum(product);
            }
            float* left = to_left + g * 2 * strips * BETWEEN_SIZE;
            const int64_t place = (s * groups + g) * BETWEEN_SIZE;
            pack_block<BETWEEN>(gate, BLOCK, left + s * BETWEEN_SIZE, rights + place);
            pack_block<BETWEEN>(linear, BLOCK, left + (strips + s) * BETWEEN_SIZE,
                                rights + strips * groups * BETWEEN_SIZE + place);
            pack_block<BETWEEN>(back, BLOCK, nullptr, active + place);
            transpose_block_words<BETWEEN>(active + place);
          }
        }
        for (int64_t k = 0; k < steps; ++k)
          for (int64_t s = 0; s < strips; ++s) {
            const int64_t row = k * BLOCK, col = (strip + s) * BLOCK;
            const float *a = across_x + k * groups * SIZE, *b = rights + s * groups * BETWEEN_SIZE;
            weight_gradient<PARTS, BETWEEN>(groups, a, b, weights.gate, row, e.width, col, e.hidden, fresh, spare);
            weight_gradient<PARTS, BETWEEN>(groups, a, b + strips * groups * BETWEEN_SIZE, weights.up, row, e.width, col,
                                            e.hidden, fresh, spare);
          }
        for (int64_t s = 0; s < strips; ++s)
          for (int64_t k = 0; k < steps; ++k)
            weight_gradient<BETWEEN, PARTS>(groups, active + s * groups * BETWEEN_SIZE, right_grad + k * groups * SIZE,
                                            weights.down, (strip + s) * BLOCK, e.hidden, k * BLOCK, e.width, fresh, spare);
        for (int64_t g = 0; g < groups; ++g)
          for (int64_t j = 0; j < steps; ++j) {
            const float *a = to_left + g * 2 * strips * BETWEEN_SIZE, *b = turned + j * 2 * strips * SIZE;
            float* to = change + g * BLOCK * wide + j * BLOCK;
            if (strip == 0)
              block_product<BETWEEN, PARTS, false>(2 * strips, a, b, to, wide);
            else
              block_product<BETWEEN, PARTS, true>(2 * strips, a, b, to, wide);
          }
        panels = turned + 2 * strips * steps * SIZE;
      }
      add_rows(change, index, nullptr, count, first, wide, x_grad);
      if (scale_grad)
        for (int64_t r = 0; r < count; ++r) scale_grad[at + r] = inner[r];
    }
  }
};

}  // namespace KERN_NS
#endif
