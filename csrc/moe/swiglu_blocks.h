// SwiGLU experts on units that multiply bf16 (bf16_gemm.h): float32 rows and weights in three parts (tiles); bfloat16
// ones in one part, and then what lies between two products (activations, gradients) in two (tiles) or one (dots).
//
// The tiles need hundreds of cycles for a step of a product and the vector units are free meanwhile: what follows a
// product element by element (activation, its derivative, the splitting in parts) is done beside the next one, and
// what later products read is fetched from memory beside them too. All rows of a call are packed once and stay in
// the second-level cache with the sums that they lead to, while the weights pass by in runs of strips.
#pragma once

#include "common/bf16_dots.h"
#include "common/bf16_tiles.h"
#include "moe/kept.h"

#ifdef RECENGINE_AMX

namespace KERN_NS {

constexpr float MISSING = __builtin_nanf("");  // the first of a kept pair (kept.h) that the forward pass could not make so
inline bool all_kept(const recengine::ExpertRows& rows, int64_t strips) {
  if (!rows.kept) return false;
  for (int64_t n = in_blocks(rows.count) * strips; n-- > 0;) {
    const float first = *kept_block(rows.kept, n);
    if (first != first) return false;
  }
  return true;
}

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

// Rows of a caller's matrix, which lie apart, so that the processor does not foresee them.
struct AheadRows {
  recengine::Matrix m{};
  int64_t width = 0, row = 0, last = 0;

  RE_INLINE void some(int64_t rows) {
    const int64_t bytes = m.bf16 ? 2 : 4;
    for (; rows > 0 && row < last; --rows, ++row)
      for (int64_t byte = 0; byte < width * bytes; byte += 64)
        _mm_prefetch(static_cast<const char*>(m.data) + row * m.row * bytes + byte, _MM_HINT_T1);
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

template <int PARTS, class Unit = Bf16Tiles>
struct TiledSwiglu {
  using Expert = recengine::Expert;
  using Matrix = recengine::Matrix;
  using ExpertRows = recengine::ExpertRows;
  using ExpertGradient = recengine::ExpertGradient;

  static constexpr int BETWEEN = PARTS == 3 ? 3 : Unit::BETWEEN;  // parts of what lies between two products
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

  static int64_t packed_size(int64_t width, int64_t hidden) { return 3 * in_blocks(hidden) * in_blocks(width) * SIZE; }
  static int64_t forward_scratch(int64_t width, int64_t, int64_t rows) {
    const int64_t steps = in_blocks(width);
    return 3 * FORWARD_STRIPS * steps * SIZE + larger(in_blocks(rows), 2) * steps * (SIZE + TILE) + 2 * FORWARD_STRIPS * BETWEEN_SIZE +
           4 * TILE;
  }
  static int64_t backward_scratch(int64_t width, int64_t hidden, int64_t rows) {
    const int64_t steps = in_blocks(width), groups = backward_groups(steps, rows);
    return 5 * in_blocks(hidden) * steps * SIZE + groups * steps * (4 * SIZE + TILE) +
           5 * BACKWARD_STRIPS * groups * BETWEEN_SIZE + 7 * TILE + 2 * groups * BLOCK;
  }

  // Block (row, col) of the weight m of rows x cols, as left and right operands.
  static RE_INLINE void pack_weight(const Matrix& m, int64_t row, int64_t rows, int64_t col, int64_t cols, float* left,
                                    float* right) {
    pack_piece<PARTS>(m, [row](int64_t i) { return row + i; }, rows - row, col, cols, left, right);
  }

  // Strips [strip, end): gate and up as right operands [strip][2][step], then down [step][strip].
  static __attribute__((noinline)) void pack_run(const Expert& e, int64_t strip, int64_t end, float* to) {
    const int64_t steps = in_blocks(e.width);
    for (int64_t s = strip; s < end; ++s)
      for (int m = 0; m < 2; ++m)
        for (int64_t k = 0; k < steps; ++k, to += SIZE)
          pack_weight(m ? e.up : e.gate, k * BLOCK, e.width, s * BLOCK, e.hidden, nullptr, to);
    for (int64_t j = 0; j < steps; ++j)
      for (int64_t s = strip; s < end; ++s, to += SIZE)
        pack_weight(e.down, s * BLOCK, e.hidden, j * BLOCK, e.width, nullptr, to);
  }

  static void pack(const Expert& e, float* to) {
    const int64_t all = in_blocks(e.hidden), steps = in_blocks(e.width);
    for (int64_t strip = 0; strip < all; strip += FORWARD_STRIPS) {
      const int64_t end = smaller(all, strip + FORWARD_STRIPS);
      pack_run(e, strip, end, to);
      to += 3 * (end - strip) * steps * SIZE;
    }
  }

  // Rows index[0, count) of x, each unless null: as left operands [group][step], their blocks transposed as left
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
                          left ? left + (g * steps + s) * SIZE : nullptr, to);
        if (across) transpose_block_words<PARTS>(to);
      }
    }
  }

  // Rows [first, last) of x as left operands [group][step], for several experts.
  static int64_t prepared_size(int64_t width, int64_t rows) { return in_blocks(rows) * in_blocks(width) * SIZE; }
  static __attribute__((noinline)) void prepare_group(const Matrix& x, int64_t row, int64_t last, int64_t width, float* to) {
    for (int64_t col = 0; col < width; col += BLOCK, to += SIZE)
      pack_piece<PARTS>(x, [row](int64_t i) { return row + i; }, last - row, col, width, to, nullptr);
  }
  static void prepare(const Matrix& x, int64_t first, int64_t last, int64_t width, float* to) {
    for (int64_t row = first; row < last; row += BLOCK, to += in_blocks(width) * SIZE) {
      if (x.col == 1) AheadRows{x, width, row + BLOCK, smaller(last, row + 2 * BLOCK)}.some(BLOCK);
      prepare_group(x, row, last, width, to);
    }
  }
  // 32 of those rows, or what is left of them, brought together as one group: a part of a step at a time.
  struct Gathering {
    const float* from[BLOCK];
    float* to = nullptr;
    int64_t live = 0, part = 0, parts = 0;

    void begin(const ExpertRows& rows, int64_t g, int64_t first, int64_t steps, float* group) {
      const int64_t at = g * BLOCK;
      live = smaller(rows.count - at, BLOCK), part = 0, parts = steps * PARTS, to = group;
      for (int64_t i = 0; i < live; ++i) {
        const int64_t row = rows.index[at + i] - first;
        from[i] = rows.prepared + row / BLOCK * steps * SIZE + row % BLOCK * W;
      }
    }
    __attribute__((noinline)) void one() {
      for (int64_t i = 0; i < live; ++i) store(to + i * W, load(from[i] + part * BLOCK_WORDS));
      for (int64_t i = live; i < BLOCK; ++i) store(to + i * W, vf{});
      ++part, to += BLOCK_WORDS;
    }
    RE_INLINE void some(int64_t n) {
      for (; n > 0 && part < parts; --n) one();
    }
  };

  static RE_INLINE vf sigmoid(vf x) {
    const vf d = 1.f + vexp(-x), y = _mm512_rcp14_ps(d);
    return y * (2.f - d * y);  // one step of Newton's: 14 bits become 28
  }

  // to[index[r] - first] (+)= scale[r] * from[r], rows of `wide`.
  static RE_INLINE void add_rows(const float* from, const int64_t* index, const float* scale, int64_t count, int64_t first,
                                 int64_t wide, bool fresh, float* to) {
    for (int64_t r = 0; r < count; ++r, from += wide) {
      float* row = to + (index[r] - first) * wide;
      const vf s = splat(scale ? scale[r] : 1.f);
      for (int64_t k = 0; k < wide; k += W) store(row + k, s * load(from + k) + (fresh ? vf{} : load(row + k)));
    }
  }

  static RE_INLINE bool one_behind_the_other(const ExpertRows& rows) {
    for (int64_t r = 1; r < rows.count; ++r)
      if (rows.index[r] != rows.index[r - 1] + 1) return false;
    return true;
  }
  // Whether the rows are whole blocks that count once: then products may add to them.
  static RE_INLINE bool in_place(const ExpertRows& rows) {
    return !rows.scale && rows.count % BLOCK == 0 && one_behind_the_other(rows);
  }

  template <int LEFT, int RIGHT, class Beside>
  static RE_INLINE void product(bool add, int64_t steps, const float* A, const float* B, float* C, int64_t ldc, Beside&& beside) {
    if (add)
      Unit::template product<LEFT, RIGHT, true>(steps, A, B, C, ldc, beside);
    else
      Unit::template product<LEFT, RIGHT, false>(steps, A, B, C, ldc, beside);
  }

  // The rows of an expert as left operands, 32 at a time. Read once, they are laid out when their turn comes: prepared rows
  // are brought together beside the products of the group before.
  struct LeftRows {
    const Matrix& x;
    const ExpertRows& rows;
    int64_t first, width, steps, groups, fast;
    bool once, in_order;
    float* own;
    Gathering gathering;
    AheadRows ahead;

    // `calls` of beside() come with the products of a group.
    LeftRows(const Matrix& x, const ExpertRows& rows, int64_t first, int64_t width, bool once, int64_t calls, float* own)
        : x(x), rows(rows), first(first), width(width), steps(in_blocks(width)), groups(in_blocks(rows.count)),
          fast((BLOCK + calls - 1) / larger(calls, 1)), once(once), own(own) {
      in_order = PARTS == 3 && rows.prepared && (rows.index[0] - first) % BLOCK == 0 && one_behind_the_other(rows);
      if (in_order && rows.prepare && !once) prepare(x, first, first + rows.count, width, rows.prepared);
      for (int64_t g = 0; !in_order && g < (once ? 1 : groups); ++g) {
        lay_out(g);
        gathering.some(gathering.parts);
      }
    }
    float* place(int64_t g) const {
      if (in_order) return rows.prepared + ((rows.index[0] - first) / BLOCK + g) * steps * SIZE;
      return own + (once ? g % 2 : g) * steps * SIZE;
    }
    void lay_out(int64_t g) {
      if (PARTS == 3 && rows.prepared)
        gathering.begin(rows, g, first, steps, place(g));
      else
        pack_rows(x, rows.index + g * BLOCK, smaller(rows.count - g * BLOCK, BLOCK), width, place(g), nullptr, nullptr);
    }
    const float* group(int64_t g) {
      gathering.some(gathering.parts);
      const int64_t row = first + g * BLOCK, last = first + rows.count;
      if (once && in_order && rows.prepare) {
        prepare_group(x, row, last, width, place(g));
        if (x.col == 1) ahead = {x, width, row + BLOCK, smaller(last, row + 2 * BLOCK)};
      } else if (once && !in_order && g + 1 < groups) {
        lay_out(g + 1);
      }
      return place(g);
    }
    RE_INLINE void beside() {
      gathering.some(1);
      ahead.some(fast);
    }
  };

  // The activation of a block as left operand, made two rows at a time.
  struct Activation {
    const float *gate = nullptr, *linear = nullptr;
    float *to = nullptr, *kept = nullptr;
    int64_t row = 16;

    __attribute__((noinline)) void pair() {
      const float *z = gate + row * BLOCK, *u = linear + row * BLOCK;
      vf h[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int64_t at = i / 2 * 16 * BLOCK + i % 2 * 16;
        const vf x = load(z + at), linear_part = load(u + at);
        h[i] = x * sigmoid(x) * linear_part;
        if (!kept) continue;
        keep(kept + row * BLOCK + at, x);
        keep(kept + TILE + row * BLOCK + at, linear_part);
      }
      pack_words<BETWEEN, BETWEEN>(h[0], h[1], h[2], h[3], to + row * 16, nullptr);
      ++row;
    }
    RE_INLINE void some(int64_t pairs) {
      for (; pairs > 0 && row < 16; --pairs) pair();
    }
  };

  static void forward(const Expert& e, const Matrix& x, const ExpertRows& rows, int64_t first, float* sum, float* scratch) {
    const typename Unit::Scope scope;
    const int64_t steps = in_blocks(e.width), groups = in_blocks(rows.count), wide = steps * BLOCK, all = in_blocks(e.hidden);
    float* own = scratch;
    float* own_left = own + 3 * FORWARD_STRIPS * steps * SIZE;
    float* hidden = own_left + larger(groups, 2) * steps * SIZE;  // of two groups in turn, [strip]
    float* before = hidden + 2 * FORWARD_STRIPS * BETWEEN_SIZE;  // of two strips in turn, [gate, up]
    float* own_out = before + 4 * TILE;
    const bool direct = in_place(rows), once = all <= FORWARD_STRIPS;
    LeftRows left(x, rows, first, e.width, once, 3 * smaller(all, FORWARD_STRIPS) * steps, own_left);
    const float* packed = e.packed;
    const int64_t pairs = steps < 8 ? 2 : 1;
    for (int64_t strip = 0; strip < all; strip += FORWARD_STRIPS) {
      const int64_t end = smaller(all, strip + FORWARD_STRIPS), strips = end - strip;
      const float* panels = packed ? packed : own;
      Ahead ahead;
      if (packed) {
        packed += 3 * strips * steps * SIZE;
        ahead.plan(packed, 3 * (smaller(all, end + FORWARD_STRIPS) - end) * steps * SIZE, 3 * groups * strips * steps);
      } else {
        pack_run(e, strip, end, own);
      }
      const float* down = panels + 2 * strips * steps * SIZE;
      Activation activation;
      const auto beside = [&] {
        activation.some(pairs);
        left.beside();
        ahead.some();
      };
      const auto close = [&](int64_t g) {
        const float* a = hidden + g % 2 * strips * BETWEEN_SIZE;
        float* out = direct ? sum + (rows.index[g * BLOCK] - first) * wide : own_out + (once ? 0 : g * BLOCK * wide);
        for (int64_t j = 0; j < steps; ++j)
          product<BETWEEN, PARTS>((direct && !rows.fresh) || strip > 0, strips, a, down + j * strips * SIZE, out + j * BLOCK, wide, beside);
        if (!direct && end == all)
          add_rows(out, rows.index + g * BLOCK, rows.scale ? rows.scale + g * BLOCK : nullptr,
                   smaller(rows.count - g * BLOCK, BLOCK), first, wide, rows.fresh, sum);
      };
      for (int64_t g = 0; g < groups; ++g) {
        const float* rows_of_group = left.group(g);
        for (int64_t s = 0; s < strips; ++s) {
          float* pair = before + (g * strips + s) % 2 * 2 * TILE;
          for (int64_t m = 0; m < 2; ++m)
            product<PARTS, PARTS>(false, steps, rows_of_group, panels + (2 * s + m) * steps * SIZE, pair + m * TILE, BLOCK, beside);
          activation.some(16);
          activation = {pair, pair + TILE, hidden + (g % 2 * strips + s) * BETWEEN_SIZE,
                        kept_block(rows.kept, g * all + strip + s), 0};
          if (s == 0 && g > 0) close(g - 1);
        }
      }
      activation.some(16);
      close(groups - 1);
    }
    if (rows.kept) published();
  }

  // A run of strips: gate and up as right operands [strip][2][step], down transposed [strip][step], then gate and up
  // transposed as right operands [step][gate strips, up strips].
  // Without those across where what lies before the activation is kept.
  static __attribute__((noinline)) void pack_backward_run(const Expert& e, int64_t strip, int64_t strips, bool kept, float* to) {
    const int64_t steps = in_blocks(e.width);
    float *down = to + 2 * strips * steps * SIZE, *across = down + strips * steps * SIZE;
    for (int64_t s = 0; s < strips; ++s)
      for (int64_t k = 0; k < steps; ++k) {
        const int64_t col = (strip + s) * BLOCK;
        for (int m = 0; m < 2; ++m) {
          float* turned = across + ((2 * k + m) * strips + s) * SIZE;
          pack_weight(m ? e.up : e.gate, k * BLOCK, e.width, col, e.hidden, turned,
                      kept ? nullptr : to + ((2 * s + m) * steps + k) * SIZE);
          transpose_block_words<PARTS>(turned);
        }
        float* turned = down + (s * steps + k) * SIZE;
        pack_weight(e.down, col, e.hidden, k * BLOCK, e.width, turned, nullptr);
        transpose_block_words<PARTS>(turned);
      }
  }
  static void pack_backward(const Expert& e, bool kept, float* to) {
    const int64_t all = in_blocks(e.hidden);
    for (int64_t strip = 0; strip < all; strip += BACKWARD_STRIPS) {
      const int64_t strips = smaller(all - strip, BACKWARD_STRIPS);
      pack_backward_run(e, strip, strips, kept, to);
      to += 5 * strips * in_blocks(e.width) * SIZE;
    }
  }

  // The gradient block (row, col) of a weight of rows x cols, rows `step` apart: the product over `steps` blocks,
  // written or added.
  template <int LEFT, int RIGHT>
  static RE_INLINE void weight_gradient(int64_t steps, const float* A, const float* B, float* weight, int64_t row,
                                        int64_t rows, int64_t col, int64_t cols, int64_t step, bool fresh, float* tile,
                                        AheadBlock ahead) {
    float* to = weight + row * step + col;
    if (row + BLOCK <= rows && col + BLOCK <= cols) {
      product<LEFT, RIGHT>(!fresh, steps, A, B, to, step, [&] { ahead.some(); });
      return;
    }
    product<LEFT, RIGHT>(false, steps, A, B, tile, BLOCK, [] {});
    for (int64_t i = 0; i < BLOCK && row + i < rows; ++i, to += step)
      for (int64_t c = 0; c < BLOCK && col + c < cols; ++c) to[c] = (fresh ? 0.f : to[c]) + tile[i * BLOCK + c];
  }

  // The gradients of a block before its activation, two rows at a time; then, a tile at a time, the scaled
  // activation turned over.
  struct Gradients {
    static constexpr int64_t ALL = 16 + 2 * BETWEEN;
    const float *gate = nullptr, *linear = nullptr, *back = nullptr, *scale = nullptr;
    float* inner = nullptr;                                    // <activation, its gradient> a row, or null
    float *left_gate = nullptr, *left_up = nullptr, *right_gate = nullptr, *right_up = nullptr, *active = nullptr;
    int64_t item = ALL;

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
          const int64_t at = (r + 16 * half) * BLOCK + 16 * i;
          const vf z = load(gate + at), u = load(linear + at), y = load(back + at);
          const vf open = sigmoid(z), swish = z * open, a = swish * u, scaled = times * y;
          product += a * y;
          act[2 * half + i] = times * a;
          dz[2 * half + i] = scaled * u * (open + swish * (1.f - open));
          du[2 * half + i] = scaled * swish;
        }
        if (inner) inner[r + 16 * half] += hsum(product);
      }
      pack_words<BETWEEN, BETWEEN>(dz[0], dz[1], dz[2], dz[3], left_gate + r * 16, right_gate + r * 16);
      pack_words<BETWEEN, BETWEEN>(du[0], du[1], du[2], du[3], left_up + r * 16, right_up + r * 16);
      pack_words<BETWEEN, BETWEEN>(act[0], act[1], act[2], act[3], nullptr, active + r * 16);
    }
    RE_INLINE void some(int64_t items) {
      for (; items > 0 && item < ALL; --items) one();
    }
  };

  // x_grad may be null: not asked for.
  static void backward(const Expert& e, const Matrix& x, const Matrix& grad, const ExpertRows& rows, int64_t first,
                       float* x_grad, const ExpertGradient& weights, float* scale_grad, float* scratch) {
    const typename Unit::Scope scope;
    const int64_t steps = in_blocks(e.width), most = backward_groups(steps, rows.count), wide = steps * BLOCK;
    const int64_t all = in_blocks(e.hidden), operand = most * steps * SIZE, between = most * BACKWARD_STRIPS * BETWEEN_SIZE;
    float* packed = scratch;
    float* left_x = packed + 5 * all * steps * SIZE;  // [group][step]
    float* left_grad = left_x + operand;
    float* across_x = left_grad + operand;            // [step][group]
    float* right_grad = across_x + operand;
    float* to_left = right_grad + operand;            // gradients before the activation [group][gate strips, up strips]
    float* rights = to_left + 2 * between;            // the same as right operands [gate, up][strip][group]
    float* active = rights + 2 * between;             // scaled activation across, [strip][group]
    float* before = active + between;                 // of two blocks in turn, [gate, up, gradient of the activation]
    float* spare = before + 6 * TILE;
    float* scale = spare + TILE;
    float* inner = scale + most * BLOCK;
    float* own_change = inner + most * BLOCK;         // gradient of the gathered rows [rows][wide]
    const bool direct = x_grad && in_place({rows.index, nullptr, rows.count});
    const bool once = rows.count <= most * BLOCK;  // every run of strips is used once: then it is packed where it is used
    const int64_t weight_step = weights.step ? weights.step : e.hidden;
    const bool kept = all_kept(rows, all);
    const int64_t items = (steps < 8 ? 2 : 1) * (kept ? 3 : 1);  // one product instead of three
    if (!once) pack_backward(e, kept, packed);
    for (int64_t at = 0; at < rows.count; at += most * BLOCK) {
      const int64_t count = smaller(rows.count - at, most * BLOCK), groups = in_blocks(count);
      const bool fresh = weights.fresh && at == 0;
      const int64_t* index = rows.index + at;
      float* change = direct ? x_grad + (index[0] - first) * wide : own_change;
      pack_rows(x, index, count, e.width, kept ? nullptr : left_x, across_x, nullptr);
      pack_rows(grad, index, count, e.width, left_grad, nullptr, right_grad);
      for (int64_t r = 0; r < groups * BLOCK; ++r) scale[r] = rows.scale && r < count ? rows.scale[at + r] : 1.f, inner[r] = 0.f;
      const float* panels = packed;
      for (int64_t strip = 0; strip < all; strip += BACKWARD_STRIPS) {
        const int64_t strips = smaller(all - strip, BACKWARD_STRIPS), run = 5 * strips * steps * SIZE;
        if (once) pack_backward_run(e, strip, strips, kept, packed);
        const float *down = panels + 2 * strips * steps * SIZE, *turned = down + strips * steps * SIZE;
        Ahead ahead;
        const float* next = strip + strips < all ? panels + run : packed;
        if (!once) ahead.plan(next, run, 5 * groups * strips * steps);
        Gradients gradients;
        const auto beside = [&] {
          gradients.some(items);
          ahead.some();
        };
        for (int64_t g = 0; g < groups; ++g)
          for (int64_t s = 0; s < strips; ++s) {
            float* three = before + (g * strips + s) % 2 * 3 * TILE;
            const float* a = left_x + g * steps * SIZE;
            const float* pair = kept ? kept_block(rows.kept, (at / BLOCK + g) * all + strip + s) : three;
            for (int64_t m = 0; m < 2 && !kept; ++m)
              product<PARTS, PARTS>(false, steps, a, panels + (2 * s + m) * steps * SIZE, three + m * TILE, BLOCK, beside);
            product<PARTS, PARTS>(false, steps, left_grad + g * steps * SIZE, down + s * steps * SIZE, three + 2 * TILE,
                                               BLOCK, beside);
            gradients.some(Gradients::ALL);
            float* left = to_left + g * 2 * strips * BETWEEN_SIZE;
            const int64_t place = (s * groups + g) * BETWEEN_SIZE;
            gradients = {pair, pair + TILE, three + 2 * TILE, scale + g * BLOCK, scale_grad ? inner + g * BLOCK : nullptr,
                         left + s * BETWEEN_SIZE, left + (strips + s) * BETWEEN_SIZE, rights + place,
                         rights + strips * groups * BETWEEN_SIZE + place, active + place, 0};
          }
        for (int64_t g = 0; g < groups; ++g) {
          if (g == groups - 1) gradients.some(Gradients::ALL);
          for (int64_t j = 0; x_grad && j < steps; ++j)
            product<BETWEEN, PARTS>((direct && !rows.fresh) || strip > 0, 2 * strips, to_left + g * 2 * strips * BETWEEN_SIZE,
                                    turned + j * 2 * strips * SIZE, change + g * BLOCK * wide + j * BLOCK, wide, beside);
        }
        const int64_t pace = (BLOCK + groups - 1) / groups;
        for (int64_t k = 0; k < steps; ++k)
          for (int64_t s = 0; s < strips; ++s)
            for (int64_t m = 0; m < 2; ++m) {
              float* weight = m ? weights.up : weights.gate;
              const int64_t row = k * BLOCK, col = (strip + s) * BLOCK;
              const AheadBlock later{weight + (row + BLOCK) * weight_step + col, weight_step, row + 2 * BLOCK <= e.width ? BLOCK : 0, pace};
              weight_gradient<PARTS, BETWEEN>(groups, across_x + k * groups * SIZE, rights + (m * strips + s) * groups * BETWEEN_SIZE,
                                              weight, row, e.width, col, e.hidden, weight_step, fresh, spare, later);
            }
        for (int64_t s = 0; s < strips; ++s)
          for (int64_t k = 0; k < steps; ++k) {
            const int64_t row = (strip + s) * BLOCK, col = k * BLOCK;
            const AheadBlock later{weights.down + row * e.width + col + BLOCK, e.width, col + 2 * BLOCK <= e.width ? BLOCK : 0, pace};
            weight_gradient<BETWEEN, PARTS>(groups, active + s * groups * BETWEEN_SIZE, right_grad + k * groups * SIZE,
                                            weights.down, row, e.hidden, col, e.width, e.width, fresh, spare, later);
          }
        if (!once) panels += run;
      }
      if (x_grad && !direct) add_rows(change, index, nullptr, count, first, wide, rows.fresh, x_grad);
      if (scale_grad)
        for (int64_t r = 0; r < count; ++r) scale_grad[at + r] = inner[r];
    }
  }
};

}  // namespace KERN_NS
#endif
