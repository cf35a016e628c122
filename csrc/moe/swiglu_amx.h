// SwiGLU experts on bf16 matrix tiles (amx_gemm.h): float32 rows and weights in three parts; bfloat16 ones in one
// part, and then what lies between two products (activations, gradients) in two.
//
// The tiles need hundreds of cycles for a step of a product and the vector units are free meanwhile: what follows a
// product element by element (activation, its derivative, the splitting in parts) is done beside the next one, and
// what later products read is fetched from memory beside them too. All rows of a call are packed once and stay in
// the second-level cache with the sums that they lead to, while the weights pass by in runs of strips.
#pragma once

#include "common/amx_gemm.h"
#include "common/fixed_gemm.h"
#include "moe/kernels.h"

#ifdef RECENGINE_AMX

namespace KERN_NS {

// Memory that a later product reads, fetched into the second-level cache a few lines at a time.
struct Ahead {
  const char *at = nullptr, *end = nullptr;
  int64_t pace = 0;

  void plan(const float* from, int64_t floats, int64_t calls) {
    at = reinterpret_cast<const char*>(from);
    end = at + 4 * floats;
    pace = calls > 0 ? (4 * floats / 64 + calls - 1) / calls : 0;
  }
  RE_INLINE void some() {
    for (int64_t i = 0; i < pace && at < end; ++i, at += 64) _mm_prefetch(at, _MM_HINT_T1);
  }
};

// The block of 32 rows that a product is about to write or to add to.
struct AheadBlock {
  const float* at;
  int64_t ld, left, pace;

  RE_INLINE void some() {
    for (int64_t i = 0; i < pace && left > 0; ++i, --left, at += ld) {
      _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1);
      _mm_prefetch(reinterpret_cast<const char*>(at + 16), _MM_HINT_T1);
    }
  }
};

// Spreads `items` pieces of work over `calls` calls.
struct Pace {
  int64_t items, calls, credit = 0;

  template <class Work>
  RE_INLINE void step(Work& work) {
    for (credit += items; credit >= calls; credit -= calls) work.some(1);
  }
};

// How many hidden columns repay packing in fixed point.
inline constexpr int64_t FIXED_HIDDEN = 256;

// IN_FIXED: products of float32 inputs (rows and weights) run in fixed point (fixed_gemm.h) but where their range
// forbids it.
template <int PARTS, bool IN_FIXED>
struct TiledSwiglu {
  using Expert = recengine::Expert;
  using Matrix = recengine::Matrix;
  using ExpertRows = recengine::ExpertRows;
  using ExpertGradient = recengine::ExpertGradient;

  static constexpr int BETWEEN = PARTS == 3 ? 3 : 2;  // parts of what lies between two products
  static constexpr int64_t SIZE = PARTS * BLOCK_WORDS, BETWEEN_SIZE = BETWEEN * BLOCK_WORDS, TILE = BLOCK * BLOCK;
  static constexpr int64_t FORWARD_STRIPS = 2, BACKWARD_STRIPS = 2;  // blocks of the hidden layer at a time
  // Going back, blocks of packed rows at a time; and groups of 32 rows at least: with fewer, the gradients of wide
  // weights pass through memory too often.
  static constexpr int64_t BACKWARD_BLOCKS = 32, LEAST_GROUPS = 8;

  static RE_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
  static RE_INLINE int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }
  static RE_INLINE int64_t backward_groups(int64_t steps, int64_t rows) {
    return smaller(in_blocks(rows), larger(LEAST_GROUPS, BACKWARD_BLOCKS / larger(steps, 1)));
  }

  // A panel: 32 columns of a weight as right operand; in fixed point their units and whether they fit (1 or 0) behind.
  static constexpr bool FIXED = IN_FIXED && PARTS == 3;
  static RE_INLINE int64_t panel_size(int64_t width) { return FIXED ? fixed_size(width) + 2 * BLOCK : in_blocks(width) * SIZE; }
  static RE_INLINE int64_t left_size(int64_t width) { return FIXED ? fixed_size(width) + BLOCK : 0; }  // of 32 rows
  static RE_INLINE bool fits(const float* panel, int64_t width) { return panel[fixed_size(width) + BLOCK] != 0.f; }
  static constexpr int64_t RESULT = (FIXED ? 4 : 1) * TILE;  // what a product with a panel leaves

  static int64_t run_size(int64_t strips, int64_t width) { return strips * (2 * panel_size(width) + in_blocks(width) * SIZE); }
  static int64_t packed_size(int64_t width, int64_t hidden) { return run_size(in_blocks(hidden), width); }
  static int64_t forward_scratch(int64_t width, int64_t, int64_t rows) {
    const int64_t steps = in_blocks(width);
    return run_size(FORWARD_STRIPS, width) + 2 * FORWARD_STRIPS * steps * SIZE +
           in_blocks(rows) * (steps * (SIZE + TILE) + left_size(width)) + 2 * FORWARD_STRIPS * BETWEEN_SIZE + 4 * RESULT;
  }
  static RE_INLINE int64_t backward_run_size(int64_t strips, int64_t width) {
    return strips * (3 * panel_size(width) + 2 * in_blocks(width) * SIZE);
  }
  static int64_t backward_scratch(int64_t width, int64_t hidden, int64_t rows) {
    const int64_t steps = in_blocks(width), groups = backward_groups(steps, rows);
    return backward_run_size(in_blocks(hidden), width) + 3 * BACKWARD_STRIPS * steps * SIZE +
           groups * (steps * (4 * SIZE + TILE) + 2 * left_size(width)) + 5 * BACKWARD_STRIPS * groups * BETWEEN_SIZE +
           6 * RESULT + TILE + 2 * groups * BLOCK;
  }

  // Block (row, col) of the weight m of rows x cols, as left and right operands.
  static RE_INLINE void pack_weight(const Matrix& m, int64_t row, int64_t rows, int64_t col, int64_t cols, float* left,
                                    float* right) {
    pack_piece<PARTS>(m, [row](int64_t i) { return row + i; }, rows - row, col, cols, left, right);
  }

  // Columns of block `strip` of gate or up as a right operand in bf16 parts, [step].
  static RE_INLINE void pack_parts(const Matrix& m, int64_t strip, const Expert& e, float* to) {
    for (int64_t k = 0; k * BLOCK < e.width; ++k)
      pack_weight(m, k * BLOCK, e.width, strip * BLOCK, e.hidden, nullptr, to + k * SIZE);
  }
  // Rows of block `strip` of down, turned over, likewise.
  static RE_INLINE void pack_parts_across(const Expert& e, int64_t strip, float* to) {
    for (int64_t k = 0; k * BLOCK < e.width; ++k, to += SIZE) {
      pack_weight(e.down, strip * BLOCK, e.hidden, k * BLOCK, e.width, to, nullptr);
      transpose_block_words<PARTS>(to);
    }
  }
  static RE_INLINE void pack_panel(const Matrix& m, int64_t strip, const Expert& e, float* to) {
    if constexpr (FIXED) {
      float* unit = to + fixed_size(e.width);
      unit[BLOCK] = pack_fixed_columns(m, e.width, strip * BLOCK, e.hidden, to, unit) ? 1.f : 0.f;
    } else {
      pack_parts(m, strip, e, to);
    }
  }
  static RE_INLINE void pack_panel_across(const Expert& e, int64_t strip, float* to) {
    if constexpr (FIXED) {
      float* unit = to + fixed_size(e.width);
      const int64_t row = strip * BLOCK;
      const bool fits = pack_fixed_rows_across(e.down, [row](int64_t i) { return row + i; }, e.hidden - row, e.width, to, unit);
      unit[BLOCK] = fits ? 1.f : 0.f;
    } else {
      pack_parts_across(e, strip, to);
    }
  }

  // Strips [strip, end): panels of gate and up [strip][2], then down [step][strip] as right operand.
  static __attribute__((noinline)) void pack_run(const Expert& e, int64_t strip, int64_t end, float* to) {
    for (int64_t s = strip; s < end; ++s)
      for (int m = 0; m < 2; ++m, to += panel_size(e.width)) pack_panel(m ? e.up : e.gate, s, e, to);
    for (int64_t j = 0; j * BLOCK < e.width; ++j)
      for (int64_t s = strip; s < end; ++s, to += SIZE)
        pack_weight(e.down, s * BLOCK, e.hidden, j * BLOCK, e.width, nullptr, to);
  }

  static void pack(const Expert& e, float* to) {
    const int64_t all = in_blocks(e.hidden);
    for (int64_t strip = 0; strip < all; strip += FORWARD_STRIPS) {
      const int64_t end = smaller(all, strip + FORWARD_STRIPS);
      pack_run(e, strip, end, to);
      to += run_size(end - strip, e.width);
    }
  }

  // Rows index[0, count) of x in parts, each unless null: as left operands [group][step], their blocks transposed as
  // left operands (across) and as right operands (right), both [step][group].
  static __attribute__((noinline)) void pack_rows(const Matrix& x, const int64_t* index, int64_t count, int64_t width,
                                                  float* left, float* across, float* right) {
    const int64_t steps = in_blocks(width), groups = in_blocks(count);
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t* id = index + g * BLOCK;
      for (int64_t s = 0; s < steps; ++s) {
        const int64_t turned = (s * groups + g) * SIZE;
        float* to = across ? across + turned : right ? right + turned : nullptr;
        pack_piece<PARTS>(x, [id](int64_t i) { return id[i]; }, count - g * BLOCK, s * BLOCK, width,
                          left ? left + (g * steps + s) * SIZE : nullptr, to);
        if (across) transpose_block_words<PARTS>(to);
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

  // Whether the rows are whole blocks that lie one behind the other and count once: then products may add to them.
  static RE_INLINE bool in_place(const ExpertRows& rows) {
    if (rows.scale || rows.count % BLOCK) return false;
    for (int64_t r = 1; r < rows.count; ++r)
      if (rows.index[r] != rows.index[r - 1] + 1) return false;
    return true;
  }

  template <int LEFT, int RIGHT, class Beside>
  static RE_INLINE void product(bool add, int64_t steps, const float* A, const float* B, float* C, int64_t ldc, Beside&& beside) {
    if (add)
      block_product<LEFT, RIGHT, true>(steps, A, B, C, ldc, beside);
    else
      block_product<LEFT, RIGHT, false>(steps, A, B, C, ldc, beside);
  }

  // Rows of a caller's matrix as left operands [group] of the products with panels: in fixed point with their units,
  // in parts once a panel asks for it (and always where inputs are bfloat16).
  struct Rows {
    const Matrix& m;
    const int64_t *index;
    int64_t count, width;
    float *fixed, *parts;  // [group][left_size], [group][step]
    bool fit = FIXED, in_parts = false;

    Rows(const Matrix& m, const int64_t* index, int64_t count, int64_t width, float* fixed, float* parts)
        : m(m), index(index), count(count), width(width), fixed(fixed), parts(parts) {
      if constexpr (FIXED) pack_fixed();
      else ensure_parts();
    }
    __attribute__((noinline)) void pack_fixed() {
      for (int64_t g = 0; g * BLOCK < count; ++g) {
        const int64_t* id = index + g * BLOCK;
        float *to = fixed + g * left_size(width), *unit = to + fixed_size(width);
        fit = pack_fixed_rows(m, [id](int64_t i) { return id[i]; }, count - g * BLOCK, width, to, unit) && fit;
      }
    }
    void ensure_parts() {
      if (!in_parts) pack_rows(m, index, count, width, parts, nullptr, nullptr);
      in_parts = true;
    }
    const float* units(int64_t g) const { return fixed + g * left_size(width) + fixed_size(width); }
  };

  // What a product with a panel left in C: floats, or integers with the units of its rows and columns.
  struct Result {
    float* C = nullptr;
    const float *rows = nullptr, *columns = nullptr;
    int32_t least = 0;

    template <bool UNITS>
    RE_INLINE vf at(int64_t row, int64_t col, __mmask16& bad) const {
      const int64_t at = row * BLOCK + col;
      if constexpr (UNITS)
        return fixed_value(C, at, splat(rows[row]) * load(columns + col), least, bad);
      else
        return load(C + at);
    }
  };

  static RE_INLINE int64_t calls_of(bool fixed, int64_t width) { return fixed ? 7 * fixed_steps(width) : in_blocks(width); }

  // Group g of the rows by a panel, in fixed point or in parts. beside() is called calls_of times.
  template <class Beside>
  static RE_INLINE Result panel_product(bool fixed, const Rows& rows, int64_t g, const float* panel, float* C, Beside&& beside) {
    if (FIXED && fixed) {
      fixed_product(fixed_steps(rows.width), rows.fixed + g * left_size(rows.width), panel, C, beside);
      return {C, rows.units(g), panel + fixed_size(rows.width), fixed_least(rows.width)};
    }
    const int64_t steps = in_blocks(rows.width);
    block_product<PARTS, PARTS, false>(steps, rows.parts + g * steps * SIZE, panel, C, BLOCK, beside);
    return {C};
  }

  // The same in parts after all, where an element of a product in fixed point turned out bad; `panel` packs its parts.
  template <class Pack>
  static RE_INLINE void in_parts_after_all(Result& result, Rows& rows, int64_t g, float* panel, Pack&& pack) {
    rows.ensure_parts();
    rows.fit = false;  // not tried again with the panels to come
    pack(panel);
    result = panel_product(false, rows, g, panel, result.C, [] {});
  }

  // The activation of a block as left operand, made two rows at a time.
  struct Activation {
    Result gate, linear;
    float* to = nullptr;
    int64_t group = 0, strip = 0, row = 16;
    __mmask16 bad = 0;

    template <bool UNITS>
    __attribute__((noinline)) void pair() {
      vf h[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int64_t r = row + i / 2 * 16, c = i % 2 * 16;
        const vf z = gate.template at<UNITS>(r, c, bad);
        h[i] = z * sigmoid(z) * linear.template at<UNITS>(r, c, bad);
      }
      pack_words<BETWEEN, BETWEEN>(h[0], h[1], h[2], h[3], to + row * 16, nullptr);
      ++row;
    }
    RE_INLINE void some(int64_t pairs) {
      for (; pairs > 0 && row < 16; --pairs) {
        if (FIXED && gate.rows)
          pair<true>();
        else
          pair<false>();
      }
    }
  };

  static void forward(const Expert& e, const Matrix& x, const ExpertRows& rows, int64_t first, float* sum, float* scratch) {
    const TileScope tiles;
    const int64_t steps = in_blocks(e.width), groups = in_blocks(rows.count), wide = steps * BLOCK, all = in_blocks(e.hidden);
    float* own = scratch;
    float* in_parts = own + run_size(FORWARD_STRIPS, e.width);  // gate and up of a run that is not in fixed point
    float* left = in_parts + 2 * FORWARD_STRIPS * steps * SIZE;
    float* left_fixed = left + groups * steps * SIZE;
    float* hidden = left_fixed + groups * left_size(e.width);    // of two groups in turn, [strip]
    float* before = hidden + 2 * FORWARD_STRIPS * BETWEEN_SIZE;  // of two strips in turn, [gate, up]
    float* out = before + 4 * RESULT;
    const bool direct = in_place(rows);
    if (direct) out = sum + (rows.index[0] - first) * wide;
    Rows gathered(x, rows.index, rows.count, e.width, left_fixed, left);
    const float* packed = e.packed;
    for (int64_t strip = 0; strip < all; strip += FORWARD_STRIPS) {
      const int64_t end = smaller(all, strip + FORWARD_STRIPS), strips = end - strip;
      const float* panels = packed ? packed : own;
      Ahead ahead;
      if (packed) {
        packed += run_size(strips, e.width);
        ahead.plan(packed, run_size(smaller(all, end + FORWARD_STRIPS) - end, e.width), 3 * groups * strips * steps);
      } else {
        pack_run(e, strip, end, own);
      }
      const float* down = panels + 2 * strips * panel_size(e.width);
      int64_t panel_step = panel_size(e.width);
      bool fixed = gathered.fit;
      for (int64_t p = 0; fixed && p < 2 * strips; ++p) fixed = fits(panels + p * panel_step, e.width);
      if (FIXED && !fixed) {
        gathered.ensure_parts();
        panels = in_parts, panel_step = steps * SIZE;
        for (int64_t p = 0; p < 2 * strips; ++p)
          pack_parts(p % 2 ? e.up : e.gate, strip + p / 2, e, in_parts + p * panel_step);
      }
      Activation activation;
      Pace pace{16, 2 * calls_of(fixed, e.width)};
      const auto beside = [&] {
        pace.step(activation);
        ahead.some();
      };
      const auto finish = [&] {
        activation.some(16);
        if (!activation.bad) return;
        for (int m = 0; m < 2; ++m)
          in_parts_after_all(m ? activation.linear : activation.gate, gathered, activation.group, in_parts,
                             [&](float* to) { pack_parts(m ? e.up : e.gate, strip + activation.strip, e, to); });
        activation.row = 0, activation.bad = 0;
        activation.some(16);
      };
      const auto close = [&](int64_t g) {
        const float* a = hidden + g % 2 * strips * BETWEEN_SIZE;
        for (int64_t j = 0; j < steps; ++j)
          product<BETWEEN, PARTS>(direct || strip > 0, strips, a, down + j * strips * SIZE, out + g * BLOCK * wide + j * BLOCK,
                                  wide, beside);
      };
      for (int64_t g = 0; g < groups; ++g)
        for (int64_t s = 0; s < strips; ++s) {
          float* pair = before + (g * strips + s) % 2 * 2 * RESULT;
          const Result gate = panel_product(fixed, gathered, g, panels + 2 * s * panel_step, pair, beside);
          const Result linear = panel_product(fixed, gathered, g, panels + (2 * s + 1) * panel_step, pair + RESULT, beside);
          finish();
          activation = {gate, linear, hidden + (g % 2 * strips + s) * BETWEEN_SIZE, g, s, 0};
          if (s == 0 && g > 0) close(g - 1);
        }
      finish();
      close(groups - 1);
    }
    if (!direct) add_rows(out, rows.index, rows.scale, rows.count, first, wide, sum);
  }

  // A run of strips: panels of gate, up and down across [strip][3], then gate and up transposed as right operands in
  // parts [step][gate strips, up strips].
  static __attribute__((noinline)) void pack_backward_run(const Expert& e, int64_t strip, int64_t strips, float* to) {
    const int64_t steps = in_blocks(e.width);
    for (int64_t s = 0; s < strips; ++s, to += 3 * panel_size(e.width)) {
      pack_panel(e.gate, strip + s, e, to);
      pack_panel(e.up, strip + s, e, to + panel_size(e.width));
      pack_panel_across(e, strip + s, to + 2 * panel_size(e.width));
    }
    for (int64_t k = 0; k < steps; ++k)
      for (int m = 0; m < 2; ++m)
        for (int64_t s = 0; s < strips; ++s, to += SIZE) {
          pack_weight(m ? e.up : e.gate, k * BLOCK, e.width, (strip + s) * BLOCK, e.hidden, to, nullptr);
          transpose_block_words<PARTS>(to);
        }
  }
  static void pack_backward(const Expert& e, float* to) {
    const int64_t all = in_blocks(e.hidden);
    for (int64_t strip = 0; strip < all; strip += BACKWARD_STRIPS) {
      const int64_t strips = smaller(all - strip, BACKWARD_STRIPS);
      pack_backward_run(e, strip, strips, to);
      to += backward_run_size(strips, e.width);
    }
  }

  // The gradient block (row, col) of a weight of rows x cols: the product over `steps` blocks, written or added.
  template <int LEFT, int RIGHT>
  static RE_INLINE void weight_gradient(int64_t steps, const float* A, const float* B, float* weight, int64_t row,
                                        int64_t rows, int64_t col, int64_t cols, bool fresh, float* tile, AheadBlock ahead) {
    float* to = weight + row * cols + col;
    if (row + BLOCK <= rows && col + BLOCK <= cols) {
      product<LEFT, RIGHT>(!fresh, steps, A, B, to, cols, [&] { ahead.some(); });
      return;
    }
    block_product<LEFT, RIGHT, false>(steps, A, B, tile, BLOCK);
    for (int64_t i = 0; i < BLOCK && row + i < rows; ++i, to += cols)
      for (int64_t c = 0; c < BLOCK && col + c < cols; ++c) to[c] = (fresh ? 0.f : to[c]) + tile[i * BLOCK + c];
  }

  // The gradients of a block before its activation, two rows at a time; then, a tile at a time, the scaled
  // activation turned over.
  struct Gradients {
    static constexpr int64_t ALL = 16 + 2 * BETWEEN;
    Result gate, linear, back;
    const float* scale = nullptr;
    float* inner = nullptr;                                    // <activation, its gradient> a row, or null
    float *left_gate = nullptr, *left_up = nullptr, *right_gate = nullptr, *right_up = nullptr, *active = nullptr;
    int64_t group = 0, strip = 0, item = ALL;
    __mmask16 bad = 0;
    float products[BLOCK] = {};

    template <bool UNITS>
    __attribute__((noinline)) void one() {
      if (item >= 16) {
        float* tile = active + (item++ - 16) * 256;
        transpose_block(tile, 16, tile, 16);
        return;
      }
      const int64_t r = item++;
      vf dz[4], du[4], act[4];
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const vf times = splat(scale[r + 16 * half]);
        vf product{};
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          const int64_t row = r + 16 * half, col = 16 * i;
          const vf z = gate.template at<UNITS>(row, col, bad), u = linear.template at<UNITS>(row, col, bad);
          const vf y = back.template at<UNITS>(row, col, bad);
          const vf open = sigmoid(z), swish = z * open, a = swish * u, scaled = times * y;
          product += a * y;
          act[2 * half + i] = times * a;
          dz[2 * half + i] = scaled * u * (open + swish * (1.f - open));
          du[2 * half + i] = scaled * swish;
        }
        if (inner) products[r + 16 * half] = hsum(product);
      }
      pack_words<BETWEEN, BETWEEN>(dz[0], dz[1], dz[2], dz[3], left_gate + r * 16, right_gate + r * 16);
      pack_words<BETWEEN, BETWEEN>(du[0], du[1], du[2], du[3], left_up + r * 16, right_up + r * 16);
      pack_words<BETWEEN, BETWEEN>(act[0], act[1], act[2], act[3], nullptr, active + r * 16);
    }
    RE_INLINE void some(int64_t items) {
      for (; items > 0 && item < ALL; --items) {
        if (FIXED && gate.rows)
          one<true>();
        else
          one<false>();
      }
    }
  };

  static void backward(const Expert& e, const Matrix& x, const Matrix& grad, const ExpertRows& rows, int64_t first,
                       float* x_grad, const ExpertGradient& weights, float* scale_grad, float* scratch) {
    const TileScope tiles;
    const int64_t steps = in_blocks(e.width), most = backward_groups(steps, rows.count), wide = steps * BLOCK;
    const int64_t all = in_blocks(e.hidden), operand = most * steps * SIZE, between = most * BACKWARD_STRIPS * BETWEEN_SIZE;
    float* packed = scratch;
    float* in_parts = packed + backward_run_size(all, e.width);  // panels of a run that is not in fixed point
    float* left_x = in_parts + 3 * BACKWARD_STRIPS * steps * SIZE;  // [group][step]
    float* left_grad = left_x + operand;
    float* across_x = left_grad + operand;            // [step][group]
    float* right_grad = across_x + operand;
    float* fixed_x = right_grad + operand;            // [group]
    float* fixed_grad = fixed_x + most * left_size(e.width);
    float* to_left = fixed_grad + most * left_size(e.width);  // gradients before the activation [group][gate strips, up strips]
    float* rights = to_left + 2 * between;            // the same as right operands [gate, up][strip][group]
    float* active = rights + 2 * between;             // scaled activation across, [strip][group]
    float* before = active + between;                 // of two blocks in turn, [gate, up, gradient of the activation]
    float* spare = before + 6 * RESULT;
    float* scale = spare + TILE;
    float* inner = scale + most * BLOCK;
    float* own_change = inner + most * BLOCK;         // gradient of the gathered rows [rows][wide]
    const bool direct = in_place({rows.index, nullptr, rows.count});
    const bool once = rows.count <= most * BLOCK;  // every run of strips is used once: then it is packed where it is used
    if (!once) pack_backward(e, packed);
    for (int64_t at = 0; at < rows.count; at += most * BLOCK) {
      const int64_t count = smaller(rows.count - at, most * BLOCK), groups = in_blocks(count);
      const bool fresh = weights.fresh && at == 0;
      const int64_t* index = rows.index + at;
      float* change = direct ? x_grad + (index[0] - first) * wide : own_change;
      Rows inputs(x, index, count, e.width, fixed_x, left_x), upstream(grad, index, count, e.width, fixed_grad, left_grad);
      pack_rows(x, index, count, e.width, nullptr, across_x, nullptr);
      pack_rows(grad, index, count, e.width, nullptr, nullptr, right_grad);
      for (int64_t r = 0; r < groups * BLOCK; ++r) scale[r] = rows.scale && r < count ? rows.scale[at + r] : 1.f, inner[r] = 0.f;
      const float* next = packed;
      for (int64_t strip = 0; strip < all; strip += BACKWARD_STRIPS) {
        const int64_t strips = smaller(all - strip, BACKWARD_STRIPS);
        const float *panels = next, *turned = panels + 3 * strips * panel_size(e.width);
        if (once)
          pack_backward_run(e, strip, strips, packed);
        else
          next += backward_run_size(strips, e.width);
        int64_t panel_step = panel_size(e.width);
        bool fixed = inputs.fit && upstream.fit;
        for (int64_t p = 0; fixed && p < 3 * strips; ++p) fixed = fits(panels + p * panel_step, e.width);
        if (FIXED && !fixed) {
          inputs.ensure_parts(), upstream.ensure_parts();
          panels = in_parts, panel_step = steps * SIZE;
          for (int64_t s = 0; s < strips; ++s) {
            pack_parts(e.gate, strip + s, e, in_parts + 3 * s * panel_step);
            pack_parts(e.up, strip + s, e, in_parts + (3 * s + 1) * panel_step);
            pack_parts_across(e, strip + s, in_parts + (3 * s + 2) * panel_step);
          }
        }
        Ahead ahead;
        const int64_t coming = smaller(strip + strips < all ? all - strip - strips : all, BACKWARD_STRIPS);
        if (!once)
          ahead.plan(strip + strips < all ? next : packed, backward_run_size(coming, e.width), 5 * groups * strips * steps);
        Gradients gradients;
        Pace even{Gradients::ALL, 3 * calls_of(fixed, e.width)};
        const auto beside = [&] {
          even.step(gradients);
          ahead.some();
        };
        const auto finish = [&] {
          gradients.some(Gradients::ALL);
          const int64_t s = strip + gradients.strip;
          if (gradients.bad) {
            const auto again = [&](Result& result, Rows& from, auto&& to_parts) {
              in_parts_after_all(result, from, gradients.group, in_parts, to_parts);
            };
            again(gradients.gate, inputs, [&](float* to) { pack_parts(e.gate, s, e, to); });
            again(gradients.linear, inputs, [&](float* to) { pack_parts(e.up, s, e, to); });
            again(gradients.back, upstream, [&](float* to) { pack_parts_across(e, s, to); });
            gradients.item = 0, gradients.bad = 0;
            gradients.some(Gradients::ALL);
          }
          for (int64_t r = 0; gradients.inner && r < BLOCK; ++r) gradients.inner[r] += gradients.products[r];
        };
        for (int64_t g = 0; g < groups; ++g)
          for (int64_t s = 0; s < strips; ++s) {
            float* three = before + (g * strips + s) % 2 * 3 * RESULT;
            const float* panel = panels + 3 * s * panel_step;
            const Result gate = panel_product(fixed, inputs, g, panel, three, beside);
            const Result linear = panel_product(fixed, inputs, g, panel + panel_step, three + RESULT, beside);
            const Result back = panel_product(fixed, upstream, g, panel + 2 * panel_step, three + 2 * RESULT, beside);
            finish();
            float* left = to_left + g * 2 * strips * BETWEEN_SIZE;
            const int64_t place = (s * groups + g) * BETWEEN_SIZE;
            gradients = {gate, linear, back, scale + g * BLOCK, scale_grad ? inner + g * BLOCK : nullptr,
                         left + s * BETWEEN_SIZE, left + (strips + s) * BETWEEN_SIZE, rights + place,
                         rights + strips * groups * BETWEEN_SIZE + place, active + place, g, s, 0};
          }
        for (int64_t g = 0; g < groups; ++g) {
          if (g == groups - 1) finish();
          for (int64_t j = 0; j < steps; ++j)
            product<BETWEEN, PARTS>(direct || strip > 0, 2 * strips, to_left + g * 2 * strips * BETWEEN_SIZE,
                                    turned + j * 2 * strips * SIZE, change + g * BLOCK * wide + j * BLOCK, wide, beside);
        }
        const int64_t pace = (BLOCK + groups - 1) / groups;
        for (int64_t k = 0; k < steps; ++k)
          for (int64_t s = 0; s < strips; ++s)
            for (int64_t m = 0; m < 2; ++m) {
              float* weight = m ? weights.up : weights.gate;
              const int64_t row = k * BLOCK, col = (strip + s) * BLOCK;
              const AheadBlock later{weight + (row + BLOCK) * e.hidden + col, e.hidden, row + 2 * BLOCK <= e.width ? BLOCK : 0, pace};
              weight_gradient<PARTS, BETWEEN>(groups, across_x + k * groups * SIZE, rights + (m * strips + s) * groups * BETWEEN_SIZE,
                                              weight, row, e.width, col, e.hidden, fresh, spare, later);
            }
        for (int64_t s = 0; s < strips; ++s)
          for (int64_t k = 0; k < steps; ++k) {
            const int64_t row = (strip + s) * BLOCK, col = k * BLOCK;
            const AheadBlock later{weights.down + row * e.width + col + BLOCK, e.width, col + 2 * BLOCK <= e.width ? BLOCK : 0, pace};
            weight_gradient<BETWEEN, PARTS>(groups, active + s * groups * BETWEEN_SIZE, right_grad + k * groups * SIZE,
                                            weights.down, row, e.hidden, col, e.width, fresh, spare, later);
          }
      }
      if (!direct) add_rows(change, index, nullptr, count, first, wide, x_grad);
      if (scale_grad)
        for (int64_t r = 0; r < count; ++r) scale_grad[at + r] = inner[r];
    }
  }
};

}  // namespace KERN_NS
#endif
