// SwiGLU experts on bf16 matrix tiles (amx_gemm.h): float32 rows and weights in three parts; bfloat16 ones in one
// part, and then what lies between two products (activations, gradients) in two.
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

  static int64_t packed_size(int64_t width, int64_t hidden) { return 3 * in_blocks(hidden) * in_blocks(width) * SIZE; }
  static int64_t forward_scratch(int64_t width, int64_t rows) {
    const int64_t steps = in_blocks(width), groups = in_blocks(rows);
    return groups * steps * SIZE + FORWARD_STRIPS * (groups * BETWEEN_SIZE + 3 * steps * SIZE);
  }
  static int64_t backward_scratch(int64_t width, int64_t rows) {
    const int64_t steps = in_blocks(width), groups = in_blocks(rows);
    return groups * steps * (4 * SIZE + TILE) + BACKWARD_STRIPS * 5 * (groups * BETWEEN_SIZE + steps * SIZE) + groups * BLOCK;
  }

  struct Piece {
    const float* at;
    int64_t ld;
  };
  // 32 x 32 elements of m from (row, col) on: where they lie or, zeros where m ends, in buffer.
  static RE_INLINE Piece piece(const Matrix& m, int64_t row, int64_t rows, int64_t col, int64_t cols, float* buffer) {
    if (!m.bf16 && m.col == 1 && row + BLOCK <= rows && col + BLOCK <= cols)
      return {static_cast<const float*>(m.data) + row * m.row + col, m.row};
    stage_block(m, [row](int64_t i) { return row + i; }, rows - row, col, cols, buffer);
    return {buffer, BLOCK};
  }

  // Strips [strip, strip + strips): gate and up as right operands [strip][2][step], then down [step][strip].
  static __attribute__((noinline)) void pack_forward(const Expert& e, int64_t strip, int64_t strips, float* to) {
    const int64_t steps = in_blocks(e.width);
    alignas(64) float buffer[TILE];
    for (int64_t s = strip; s < strip + strips; ++s)
      for (int m = 0; m < 2; ++m)
        for (int64_t k = 0; k < steps; ++k, to += SIZE) {
          const Piece from = piece(m ? e.up : e.gate, k * BLOCK, e.width, s * BLOCK, e.hidden, buffer);
          pack_block<PARTS>(from.at, from.ld, nullptr, to);
        }
    for (int64_t j = 0; j < steps; ++j)
      for (int64_t s = strip; s < strip + strips; ++s, to += SIZE) {
        const Piece from = piece(e.down, s * BLOCK, e.hidden, j * BLOCK, e.width, buffer);
        pack_block<PARTS>(from.at, from.ld, nullptr, to);
      }
  }
  static void pack(const Expert& e, float* packed) {
    const int64_t all = in_blocks(e.hidden);
    for (int64_t strip = 0; strip < all; strip += FORWARD_STRIPS) {
      const int64_t strips = all - strip < FORWARD_STRIPS ? all - strip : FORWARD_STRIPS;
      pack_forward(e, strip, strips, packed);
      packed += 3 * strips * in_blocks(e.width) * SIZE;
    }
  }

  // The given rows of x as left operands [group][step] and, unless null, transposed as left operands [step][group].
  static __attribute__((noinline)) void pack_rows(const Matrix& x, const ExpertRows& rows, int64_t width, float* left,
                                                  float* across) {
    const int64_t steps = in_blocks(width), groups = in_blocks(rows.count);
    alignas(64) float buffer[TILE];
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t* index = rows.index + g * BLOCK;
      for (int64_t s = 0; s < steps; ++s) {
        stage_block(x, [index](int64_t i) { return index[i]; }, rows.count - g * BLOCK, s * BLOCK, width, buffer);
        float* to = across ? across + (s * groups + g) * SIZE : nullptr;
        pack_block<PARTS>(buffer, BLOCK, left + (g * steps + s) * SIZE, to);
        if (across) transpose_block_words<PARTS>(to);
      }
    }
  }

  static RE_INLINE vf sigmoid(vf x) {
    const vf d = 1.f + vexp(-x), y = _mm512_rcp14_ps(d);
    return y * (2.f - d * y);  // one step of Newton's: 14 bits become 28
  }

  static void forward(const Expert& e, const Matrix& x, const ExpertRows& rows, int64_t first, float* sum, float* scratch) {
    const TileScope tiles;
    const int64_t steps = in_blocks(e.width), groups = in_blocks(rows.count), wide = steps * BLOCK, all = in_blocks(e.hidden);
    float* left = scratch;
    float* hidden = left + groups * steps * SIZE;  // [group][strip]
    float* own = hidden + FORWARD_STRIPS * groups * BETWEEN_SIZE;
    alignas(64) float gate[TILE], linear[TILE];
    pack_rows(x, rows, e.width, left, nullptr);
    const float* packed = e.packed;
    for (int64_t strip = 0; strip < all; strip += FORWARD_STRIPS) {
      const int64_t strips = all - strip < FORWARD_STRIPS ? all - strip : FORWARD_STRIPS;
      if (!e.packed) pack_forward(e, strip, strips, own);
      const float* panels = e.packed ? packed : own;
      const float* down = panels + 2 * strips * steps * SIZE;
      packed += 3 * strips * steps * SIZE;
      for (int64_t g = 0; g < groups; ++g)
        for (int64_t s = 0; s < strips; ++s) {
          const float *a = left + g * steps * SIZE, *b = panels + 2 * s * steps * SIZE;
          block_product<PARTS, PARTS, false>(steps, a, b, gate, BLOCK);
          block_product<PARTS, PARTS, false>(steps, a, b + steps * SIZE, linear, BLOCK);
          for (int64_t c = 0; c < TILE; c += W) {
            const vf z = load(gate + c);
            store(gate + c, z * sigmoid(z) * load(linear + c));
          }
          pack_block<BETWEEN>(gate, BLOCK, hidden + (g * strips + s) * BETWEEN_SIZE, nullptr);
        }
      for (int64_t g = 0; g < groups; ++g)
        for (int64_t j = 0; j < steps; ++j) {
          block_product<BETWEEN, PARTS, false>(strips, hidden + g * strips * BETWEEN_SIZE, down + j * strips * SIZE, gate,
                                               BLOCK);
          for (int64_t i = 0; i < BLOCK && g * BLOCK + i < rows.count; ++i) {
            const int64_t r = g * BLOCK + i;
            float* to = sum + (rows.index[r] - first) * wide + j * BLOCK;
            const float* from = gate + i * BLOCK;
            const vf scale = splat(rows.scale ? rows.scale[r] : 1.f);
            store(to, load(to) + scale * load(from));
            store(to + W, load(to + W) + scale * load(from + W));
          }
        }
    }
  }

  // gate and up as right operands [strip][2][step], then down transposed [strip][step]; gate and up transposed as
  // right operands [step][gate strips, up strips].
  static __attribute__((noinline)) void pack_backward(const Expert& e, int64_t strip, int64_t strips, float* to,
                                                      float* down, float* across) {
    const int64_t steps = in_blocks(e.width);
    alignas(64) float buffer[TILE];
    for (int64_t s = 0; s < strips; ++s)
      for (int64_t k = 0; k < steps; ++k) {
        const int64_t col = (strip + s) * BLOCK;
        for (int m = 0; m < 2; ++m) {
          const Piece from = piece(m ? e.up : e.gate, k * BLOCK, e.width, col, e.hidden, buffer);
          float* turned = across + ((2 * k + m) * strips + s) * SIZE;
          pack_block<PARTS>(from.at, from.ld, turned, to + ((2 * s + m) * steps + k) * SIZE);
          transpose_block_words<PARTS>(turned);
        }
        const Piece from = piece(e.down, col, e.hidden, k * BLOCK, e.width, buffer);
        pack_block_across<PARTS>(from.at, from.ld, nullptr, down + (s * steps + k) * SIZE);
      }
  }

  // The n x cols corner of a tile onto `to`.
  static RE_INLINE void add_corner(const float* tile, int64_t n, int64_t cols, float* to, int64_t ld) {
    for (int64_t i = 0; i < n; ++i, tile += BLOCK, to += ld) {
      if (cols >= BLOCK) {
        store(to, load(to) + load(tile));
        store(to + W, load(to + W) + load(tile + W));
      } else {
        for (int64_t c = 0; c < cols; ++c) to[c] += tile[c];
      }
    }
  }

  static void backward(const Expert& e, const Matrix& x, const Matrix& grad, const ExpertRows& rows, int64_t first,
                       float* x_grad, const ExpertGradient& weights, float* scale_grad, float* scratch) {
    const TileScope tiles;
    const int64_t steps = in_blocks(e.width), groups = in_blocks(rows.count), wide = steps * BLOCK, all = in_blocks(e.hidden);
    const int64_t operand = groups * steps * SIZE;
    float* left_x = scratch;                        // [group][step]
    float* left_grad = left_x + operand;
    float* across_x = left_grad + operand;          // transposed, [step][group]
    float* across_grad = across_x + operand;
    float* change = across_grad + operand;          // gradient of the gathered rows [rows][wide]
    float* to_left = change + groups * BLOCK * wide;  // gradients before the activation [group][gate strips, up strips]
    float* rights = to_left + 2 * BACKWARD_STRIPS * groups * BETWEEN_SIZE;  // [gate, up, scaled activation][strip][group]
    float* panels = rights + 3 * BACKWARD_STRIPS * groups * BETWEEN_SIZE;
    float* products = panels + 5 * BACKWARD_STRIPS * steps * SIZE;  // <activation, its gradient> a row
    alignas(64) float gate[TILE], linear[TILE], back[TILE];
    pack_rows(x, rows, e.width, left_x, across_x);
    pack_rows(grad, rows, e.width, left_grad, across_grad);
    std::memset(change, 0, sizeof(float) * static_cast<size_t>(groups * BLOCK * wide));
    std::memset(products, 0, sizeof(float) * static_cast<size_t>(groups * BLOCK));
    for (int64_t strip = 0; strip < all; strip += BACKWARD_STRIPS) {
      const int64_t strips = all - strip < BACKWARD_STRIPS ? all - strip : BACKWARD_STRIPS;
      float* down = panels + 2 * strips * steps * SIZE;
      float* turned = down + strips * steps * SIZE;
      pack_backward(e, strip, strips, panels, down, turned);
      for (int64_t g = 0; g < groups; ++g)
        for (int64_t s = 0; s < strips; ++s) {
          const float *a = left_x + g * steps * SIZE, *b = panels + 2 * s * steps * SIZE;
          block_product<PARTS, PARTS, false>(steps, a, b, gate, BLOCK);
          block_product<PARTS, PARTS, false>(steps, a, b + steps * SIZE, linear, BLOCK);
          block_product<PARTS, PARTS, false>(steps, left_grad + g * steps * SIZE, down + s * steps * SIZE, back, BLOCK);
          for (int64_t i = 0; i < BLOCK; ++i) {
            const int64_t r = g * BLOCK + i;
            const vf scale = splat(rows.scale && r < rows.count ? rows.scale[r] : 1.f);
            vf product{};
            for (int64_t c = i * BLOCK; c < (i + 1) * BLOCK; c += W) {
              const vf z = load(gate + c), u = load(linear + c), y = load(back + c);
              const vf open = sigmoid(z), swish = z * open, active = swish * u, scaled = scale * y;
              product += active * y;
              store(back + c, scale * active);
              store(gate + c, scaled * u * (open + swish * (1.f - open)));
              store(linear + c, scaled * swish);
            }
            if (scale_grad) products[r] += hsum(product);
          }
          float* to = to_left + g * 2 * strips * BETWEEN_SIZE;
          pack_block<BETWEEN>(gate, BLOCK, to + s * BETWEEN_SIZE, rights + (s * groups + g) * BETWEEN_SIZE);
          pack_block<BETWEEN>(linear, BLOCK, to + (strips + s) * BETWEEN_SIZE,
                              rights + ((strips + s) * groups + g) * BETWEEN_SIZE);
          pack_block<BETWEEN>(back, BLOCK, nullptr, rights + ((2 * strips + s) * groups + g) * BETWEEN_SIZE);
        }
      for (int64_t k = 0; k < steps; ++k)
        for (int64_t s = 0; s < strips; ++s) {
          const int64_t row = k * BLOCK, col = (strip + s) * BLOCK, n = e.width - row < BLOCK ? e.width - row : BLOCK;
          const int64_t m = e.hidden - col < BLOCK ? e.hidden - col : BLOCK;
          const float* b = rights + s * groups * BETWEEN_SIZE;
          const int64_t next = strips * groups * BETWEEN_SIZE;
          block_product<PARTS, BETWEEN, false>(groups, across_x + k * groups * SIZE, b, gate, BLOCK);
          add_corner(gate, n, m, weights.gate + row * e.hidden + col, e.hidden);
          block_product<PARTS, BETWEEN, false>(groups, across_x + k * groups * SIZE, b + next, gate, BLOCK);
          add_corner(gate, n, m, weights.up + row * e.hidden + col, e.hidden);
          block_product<PARTS, BETWEEN, false>(groups, across_grad + k * groups * SIZE, b + 2 * next, gate, BLOCK);
          transpose(BLOCK, BLOCK, gate, BLOCK, back, BLOCK);
          add_corner(back, m, n, weights.down + col * e.width + row, e.width);
        }
      for (int64_t g = 0; g < groups; ++g)
        for (int64_t j = 0; j < steps; ++j)
          block_product<BETWEEN, PARTS, true>(2 * strips, to_left + g * 2 * strips * BETWEEN_SIZE,
                                              turned + j * 2 * strips * SIZE, change + g * BLOCK * wide + j * BLOCK, wide);
    }
    for (int64_t r = 0; r < rows.count; ++r) {
      float* to = x_grad + (rows.index[r] - first) * wide;
      for (int64_t k = 0; k < wide; k += W) store(to + k, load(to + k) + load(change + r * wide + k));
    }
    if (scale_grad)
      for (int64_t r = 0; r < rows.count; ++r) scale_grad[r] = products[r];
  }
};

}  // namespace KERN_NS
#endif
