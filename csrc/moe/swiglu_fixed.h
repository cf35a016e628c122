// SwiGLU experts of float32 in fixed point on int8 matrix tiles (fixed_gemm.h).
//
// An expert is a sum over its hidden columns, and they are taken in runs. Each product's precision is known before it
// is made; rows (going back: all rows of a block) for which a run is too coarse take that run's columns, an expert by
// themselves, on the bf16 tiles (swiglu_blocks.h). What follows a product element by element is done on the vector units
// beside the next one or after it.
#pragma once

#include <initializer_list>

#include "common/fixed_gemm.h"
#include "moe/swiglu_blocks.h"

#ifdef RECENGINE_AMX

namespace KERN_NS {

// Rows of a matrix as operands read them: 64 * steps floats, zeros behind what exists.
struct WholeRows {
  recengine::Matrix m;
  int64_t width;
  float* line;  // for a row that does not lie so

  RE_INLINE const float* operator()(int64_t r) const {
    const float* from = read_row(m, r, width, line);
    if (width % FIXED_DEEP == 0) return from;
    if (from != line) std::memcpy(line, from, sizeof(float) * static_cast<size_t>(width));
    std::memset(line + width, 0, sizeof(float) * static_cast<size_t>(fixed_steps(width) * FIXED_DEEP - width));
    return line;
  }
};

// 32 columns of a matrix from `col` on, zeros behind what exists; four of its rows may be held at once.
struct BlockColumns {
  recengine::Matrix m;
  int64_t width;
  mutable float buffer[4][BLOCK] = {};
  mutable int place = 0;

  BlockColumns(const recengine::Matrix& from, int64_t row, int64_t col, int64_t cols)
      : m(shifted(from, row, col)), width(cols - col < BLOCK ? cols - col : BLOCK) {}
  RE_INLINE const float* operator()(int64_t r) const {
    if (m.col == 1 && !m.bf16 && width == BLOCK) {
      const float* at = static_cast<const float*>(m.data) + r * m.row;
      _mm_prefetch(reinterpret_cast<const char*>(at + BLOCK), _MM_HINT_T1);  // the columns that are likely to be next
      _mm_prefetch(reinterpret_cast<const char*>(at + BLOCK + W), _MM_HINT_T1);
      return at;
    }
    float* own = buffer[place = (place + 1) % 4];
    const float* from = read_row(m, r, width, own);
    if (from == own || width == BLOCK) return from;
    std::memcpy(own, from, sizeof(float) * static_cast<size_t>(width));
    return own;
  }
};

struct FixedSwiglu {
  using Expert = recengine::Expert;
  using Matrix = recengine::Matrix;
  using ExpertRows = recengine::ExpertRows;
  using ExpertGradient = recengine::ExpertGradient;
  using Parts = TiledSwiglu<3>;

  static constexpr int64_t TILE = BLOCK * BLOCK, RESULT = FIXED_LEVELS * TILE;
  static constexpr int64_t FORWARD_STRIPS = 8, BACKWARD_STRIPS = 4;  // blocks of 32 hidden columns in a run
  static constexpr int64_t BACKWARD_ROWS = 512;                      // that gradients of weights are summed over at once

  static RE_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
  static RE_INLINE int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }
  static RE_INLINE int64_t size(int64_t n) { return FixedOperand::size(n); }

  // A run of strips of hidden columns, packed: gate and up [strip][2], then down by 32 columns.
  static RE_INLINE int64_t run_size(int64_t strips, int64_t width) {
    return 2 * strips * size(width) + in_blocks(width) * size(strips * BLOCK);
  }
  static int64_t packed_size(int64_t width, int64_t hidden) {
    const int64_t all = in_blocks(hidden), rest = all % FORWARD_STRIPS;
    return all / FORWARD_STRIPS * run_size(FORWARD_STRIPS, width) + (rest ? run_size(rest, width) : 0);
  }
  static __attribute__((noinline)) void pack_columns(const Matrix& m, int64_t row, int64_t rows, int64_t col, int64_t cols,
                                                     float* to, int64_t deep) {
    const int64_t live = larger(smaller(rows - row, deep), 0);
    pack_fixed_columns(BlockColumns(m, row, col, cols), live, FixedOperand(to, deep));
  }
  static void pack_run(const Expert& e, int64_t strip, int64_t strips, float* to) {
    for (int64_t s = strip; s < strip + strips; ++s)
      for (int m = 0; m < 2; ++m, to += size(e.width))
        pack_columns(m ? e.up : e.gate, 0, e.width, s * BLOCK, e.hidden, to, e.width);
    for (int64_t j = 0; j * BLOCK < e.width; ++j, to += size(strips * BLOCK))
      pack_columns(e.down, strip * BLOCK, e.hidden, j * BLOCK, e.width, to, strips * BLOCK);
  }
  static void pack(const Expert& e, float* to) {
    const int64_t all = in_blocks(e.hidden);
    for (int64_t strip = 0; strip < all; strip += FORWARD_STRIPS) {
      const int64_t strips = smaller(all - strip, FORWARD_STRIPS);
      pack_run(e, strip, strips, to);
      to += run_size(strips, e.width);
    }
  }

  // 32 rows of a caller's matrix, those of the index, as left operand.
  static __attribute__((noinline)) void pack_rows(const Matrix& m, const int64_t* index, int64_t count, int64_t width,
                                                  float* line, float* to) {
    constexpr int64_t AHEAD = BLOCK;  // rows that lie apart: the processor does not foresee them
    const int64_t bytes = m.bf16 ? 2 : 4;
    for (int64_t r = AHEAD; m.row != width && m.col == 1 && r < smaller(count, AHEAD + BLOCK); ++r)
      for (int64_t c = 0; c < width * bytes; c += 64)
        _mm_prefetch(static_cast<const char*>(m.data) + index[r] * m.row * bytes + c, _MM_HINT_T1);
    const WholeRows rows{m, width, line};
    pack_fixed_rows([&](int64_t r) { return rows(index[r]); }, count, FixedOperand(to, width));
  }
  // Rows `step` floats apart.
  static __attribute__((noinline)) void pack_line(const float* from, int64_t step, int64_t n, float* to) {
    pack_fixed_rows([=](int64_t r) { return from + r * step; }, BLOCK, FixedOperand(to, n));
  }

  // 32 columns of the rows of the index, and of rows `step` floats apart: rows are the inner dimension.
  static __attribute__((noinline)) void pack_chosen(const Matrix& m, const int64_t* index, int64_t count, int64_t col,
                                                    int64_t width, const FixedOperand& to) {
    const BlockColumns columns(m, 0, col, width);
    pack_fixed_columns([&](int64_t r) { return columns(index[r]); }, count, to);
  }
  static __attribute__((noinline)) void pack_made(const float* from, int64_t step, int64_t rows, const FixedOperand& to) {
    pack_fixed_columns([=](int64_t r) { return from + r * step; }, rows, to);
  }

  // A run going back: panels of gate, up and down across [strip][3]; then gate's and up's columns of the run as inner
  // dimension, by 32 of their rows.
  static __attribute__((noinline)) void pack_backward_run(const Expert& e, int64_t strip, int64_t strips, bool kept, float* line,
                                                          float* panels, float* turned) {
    const int64_t inner = strips * BLOCK, col = strip * BLOCK, live = smaller(e.hidden - col, inner);
    for (int64_t s = 0; s < strips; ++s, panels += 3 * size(e.width)) {
      const int64_t own = col + s * BLOCK;
      for (int m = 0; m < 2 && !kept; ++m) pack_columns(m ? e.up : e.gate, 0, e.width, own, e.hidden, panels + m * size(e.width), e.width);
      const FixedOperand down(panels + 2 * size(e.width), e.width);
      const WholeRows rows{shifted(e.down, own, 0), e.width, line};
      pack_fixed_rows(rows, e.hidden - own, down);
      turn_fixed(down);
    }
    alignas(64) float both[2 * BACKWARD_STRIPS * BLOCK] = {};
    const Matrix gate = shifted(e.gate, 0, col), up = shifted(e.up, 0, col);
    for (int64_t j = 0; j * BLOCK < e.width; ++j, turned += size(2 * inner)) {
      const auto row = [&](int64_t r) {
        float buffer[BACKWARD_STRIPS * BLOCK];
        const size_t bytes = sizeof(float) * static_cast<size_t>(live);
        std::memcpy(both, read_row(gate, j * BLOCK + r, live, buffer), bytes);
        std::memcpy(both + inner, read_row(up, j * BLOCK + r, live, buffer), bytes);
        return static_cast<const float*>(both);
      };
      const FixedOperand to(turned, 2 * inner);
      pack_fixed_rows(row, e.width - j * BLOCK, to);
      turn_fixed(to);
    }
  }

  // The columns of a run as an expert by themselves.
  static RE_INLINE Expert part(const Expert& e, int64_t strip, int64_t strips) {
    const int64_t col = strip * BLOCK;
    const int64_t live = smaller(e.hidden - col, strips * BLOCK);
    return {shifted(e.gate, 0, col), shifted(e.up, 0, col), shifted(e.down, col, 0), nullptr, e.width, live};
  }

  // Four at a time, step by step: one alone is a long chain in which each instruction waits for the last.
  static constexpr int SIDE = 4;
  static RE_INLINE void sigmoids(const vf* x, vf* y) {
    vf n[SIDE], r[SIDE], p[SIDE];
#define RE_EACH _Pragma("GCC unroll 4") for (int i = 0; i < SIDE; ++i)
    RE_EACH r[i] = _mm512_max_ps(splat(-87.3f), _mm512_min_ps(splat(88.3f), -x[i]));
    RE_EACH n[i] = _mm512_roundscale_ps(r[i] * 1.44269504f, 8);
    RE_EACH r[i] = r[i] - n[i] * 0.693359375f;
    RE_EACH r[i] = r[i] + n[i] * 2.12194440e-4f;
    RE_EACH p[i] = splat(1.9875691500e-4f) * r[i] + 1.3981999507e-3f;
    RE_EACH p[i] = p[i] * r[i] + 8.3334519073e-3f;
    RE_EACH p[i] = p[i] * r[i] + 4.1665795894e-2f;
    RE_EACH p[i] = p[i] * r[i] + 1.6666665459e-1f;
    RE_EACH p[i] = p[i] * r[i] + 5.0000001201e-1f;
    RE_EACH p[i] = p[i] * (r[i] * r[i]) + (r[i] + 1.f);
    RE_EACH p[i] = 1.f + _mm512_scalef_ps(p[i], n[i]);
    RE_EACH n[i] = _mm512_rcp14_ps(p[i]);
    RE_EACH y[i] = n[i] * (2.f - p[i] * n[i]);  // one step of Newton's: 14 bits become 28
  }
  // Two rows of a product's block.
  static RE_INLINE void rows_of(const FixedResult& from, int64_t row, vf* to) {
    RE_EACH to[i] = from.at(row + i / 2, i % 2 * W);
  }

  // The product of two operands, `levels` of it.
  template <class Beside>
  static RE_INLINE FixedResult product(int64_t levels, const FixedOperand& A, const FixedOperand& B, float* C, Beside&& beside) {
    fixed_product(levels, A, B, C, beside);
    return {C, A.units(), B.units(), levels == 4};
  }

  // The activation of a block, a row at a time.
  struct Activation {
    FixedResult gate, up;
    float *to = nullptr, *kept = nullptr;
    int64_t step = 0, row = BLOCK;

    __attribute__((noinline)) void pair() {
      vf z[SIDE], u[SIDE], open[SIDE];
      rows_of(gate, row, z);
      rows_of(up, row, u);
      if (kept) {
        float* at = kept + row * BLOCK;  // four vectors are two rows
        RE_EACH _mm512_stream_ps(at + i * W, z[i]);  // nobody reads them soon
        RE_EACH _mm512_stream_ps(at + TILE + i * W, u[i]);
      }
      sigmoids(z, open);
      RE_EACH store(to + (row + i / 2) * step + i % 2 * W, z[i] * open[i] * u[i]);
      row += 2;
    }
    RE_INLINE void some(int64_t rows) {
      for (; rows > 0 && row < BLOCK; rows -= 2) pair();
    }
  };

  // A block written or added to rows of the caller's, those of the index.
  static RE_INLINE void add_block(const FixedResult& from, const int64_t* index, const float* scale, int64_t rows, bool fresh,
                                  float* to, int64_t step) {
    for (int64_t r = 0; r < smaller(rows, BLOCK); ++r) {
      float* at = to + index[r] * step;
      const vf times = splat(scale ? scale[r] : 1.f);
      for (int64_t c = 0; c < BLOCK; c += W) store(at + c, times * from.at(r, c) + (fresh ? vf{} : load(at + c)));
    }
  }

  // How many items of work go beside each step of `products` products of n inner elements.
  static RE_INLINE int64_t pace(int64_t items, int64_t products, int64_t n) {
    const int64_t calls = products * 6 * fixed_steps(n);
    return (items + calls - 1) / calls;
  }

  static RE_INLINE int64_t forward_strips(int64_t hidden) { return smaller(in_blocks(hidden), FORWARD_STRIPS); }
  static int64_t forward_scratch(int64_t width, int64_t hidden, int64_t rows) {
    const int64_t strips = forward_strips(hidden), deep = fixed_steps(strips * BLOCK) * FIXED_DEEP, groups = in_blocks(rows);
    return run_size(strips, width) + groups * (size(width) + 3 * BLOCK) + fixed_steps(width) * FIXED_DEEP + BLOCK * deep +
           size(deep) + 4 * RESULT + Parts::forward_scratch(width, strips * BLOCK, rows);
  }

  static void forward(const Expert& e, const Matrix& x, const ExpertRows& rows, int64_t first, float* sum, float* scratch) {
    const int64_t steps = in_blocks(e.width), wide = steps * BLOCK, groups = in_blocks(rows.count), all = in_blocks(e.hidden);
    const int64_t most = forward_strips(e.hidden), deep = fixed_steps(most * BLOCK) * FIXED_DEEP;
    float* own = scratch;
    float* left = own + run_size(most, e.width);
    float* line = left + groups * size(e.width);
    float* hidden = line + fixed_steps(e.width) * FIXED_DEEP;
    float* left_hidden = hidden + BLOCK * deep;
    float* results = left_hidden + size(deep);  // of two pairs in turn
    auto* coarse = reinterpret_cast<int64_t*>(results + 4 * RESULT);  // rows for which a run is too coarse
    float* coarse_scale = results + 4 * RESULT + 2 * groups * BLOCK;
    float* parts = coarse_scale + groups * BLOCK;
    for (int64_t g = 0; g < groups; ++g)
      pack_rows(x, rows.index + g * BLOCK, rows.count - g * BLOCK, e.width, line, left + g * size(e.width));
    float* packed = const_cast<float*>(e.packed);
    for (int64_t strip = 0; strip < all; strip += FORWARD_STRIPS) {
      const int64_t strips = smaller(all - strip, FORWARD_STRIPS), inner = strips * BLOCK;
      const bool fresh = rows.fresh && strip == 0;
      if (!e.packed) pack_run(e, strip, strips, packed = own);
      const FixedOperand active(left_hidden, inner);
      const auto gate = [=](int64_t s) { return FixedOperand(packed + 2 * s * size(e.width), e.width); };
      const auto up = [=](int64_t s) { return FixedOperand(packed + (2 * s + 1) * size(e.width), e.width); };
      const auto down = [=](int64_t j) { return FixedOperand(packed + 2 * strips * size(e.width) + j * size(inner), inner); };
      if (inner % FIXED_DEEP) std::memset(hidden, 0, sizeof(float) * static_cast<size_t>(BLOCK * deep));
      Activation activation;
      const int64_t fast = pace(BLOCK, 2, e.width);
      const auto beside = [&] { activation.some(fast); };
      // False where a product would be too coarse: then nothing of the group has been added.
      const auto group = [&](int64_t g) {
        const FixedOperand A(left + g * size(e.width), e.width);
        FixedLevels before, after;
        before.also(A.needed());
        for (int64_t s = 0; s < strips; ++s)
          for (const FixedOperand& B : {gate(s), up(s)}) {
            before.also(B.needed());
            before.also(A, B);
          }
        if (!before.needed) return false;
        for (int64_t s = 0; s < strips; ++s) {
          float* pair = results + s % 2 * 2 * RESULT;
          const FixedResult z = product(before.needed, A, gate(s), pair, beside);
          const FixedResult u = product(before.needed, A, up(s), pair + RESULT, beside);
          activation.some(BLOCK);
          activation = {z, u, hidden + s * BLOCK, kept_block(rows.kept, g * all + strip + s), deep, 0};
        }
        activation.some(BLOCK);
        pack_line(hidden, deep, inner, left_hidden);
        for (int64_t j = 0; j < steps; ++j) after.also(active, down(j));
        if (!after.needed) return false;
        for (int64_t j = 0; j < steps; ++j) {
          const FixedResult y = product(after.needed, active, down(j), results, [] {});
          add_block(y, rows.index + g * BLOCK, rows.scale ? rows.scale + g * BLOCK : nullptr, rows.count - g * BLOCK, fresh,
                    sum + j * BLOCK - first * wide, wide);
        }
        return true;
      };
      int64_t left_out = 0;
      {
        const TileScope tiles;
        for (int64_t g = 0; g < groups; ++g) {
          if (group(g)) continue;
          activation.some(BLOCK);
          for (int64_t s = 0; rows.kept && s < strips; ++s) *kept_block(rows.kept, g * all + strip + s) = MISSING;
          for (int64_t r = g * BLOCK; r < smaller(rows.count, (g + 1) * BLOCK); ++r, ++left_out) {
            coarse[left_out] = rows.index[r];
            coarse_scale[left_out] = rows.scale ? rows.scale[r] : 1.f;
          }
        }
      }
      if (left_out > 0)
        Parts::forward(part(e, strip, strips), x, {coarse, rows.scale ? coarse_scale : nullptr, left_out, nullptr, false, fresh},
                       first, sum, parts);
      packed += run_size(strips, e.width);
    }
    if (rows.kept) _mm_sfence();  // written past the cache: before another thread reads it
  }

  // The gradients of a block before its activation and the scaled activation, a row at a time.
  struct Gradients {
    FixedResult gate, up, back;
    const float* kept = nullptr;  // gate and up, where they were kept
    const float* scale = nullptr;
    float* inner = nullptr;  // <activation, its gradient> a row is added here, unless null
    float *to_gate = nullptr, *to_up = nullptr, *active = nullptr;
    int64_t step = 0, active_step = 0, row = BLOCK;

    __attribute__((noinline)) void pair() {
      vf z[SIDE], u[SIDE], y[SIDE], open[SIDE], product[2] = {};
      if (kept) {
        const float* at = kept + row * BLOCK;
        RE_EACH z[i] = load(at + i * W);
        RE_EACH u[i] = load(at + TILE + i * W);
        RE_EACH _mm_prefetch(reinterpret_cast<const char*>(at + 2 * TILE + i * W), _MM_HINT_T1);  // as a rule the next block
        RE_EACH _mm_prefetch(reinterpret_cast<const char*>(at + 3 * TILE + i * W), _MM_HINT_T1);
      } else {
        rows_of(gate, row, z);
        rows_of(up, row, u);
      }
      sigmoids(z, open);
      rows_of(back, row, y);
      RE_EACH {
        const int64_t r = row + i / 2, c = i % 2 * W;
        const vf swish = z[i] * open[i], a = swish * u[i], times = splat(scale[r]), scaled = times * y[i];
        product[i / 2] += a * y[i];
        store(active + r * active_step + c, times * a);
        store(to_gate + r * step + c, scaled * u[i] * (open[i] + swish * (1.f - open[i])));
        store(to_up + r * step + c, scaled * swish);
      }
      for (int i = 0; inner && i < 2; ++i) inner[row + i] += hsum(product[i]);
      row += 2;
    }
    RE_INLINE void some(int64_t rows) {
      for (; rows > 0 && row < BLOCK; rows -= 2) pair();
    }
  };

  // A block of a weight's gradient, written or added. Whole lines are written past the cache: nobody reads them soon.
  static RE_INLINE void write_block(const FixedResult& from, int64_t rows, int64_t cols, float* to, int64_t step, bool fresh) {
    const bool past = fresh && cols >= BLOCK && step % W == 0 && reinterpret_cast<uintptr_t>(to) % 64 == 0;
    for (int64_t r = 0; r < smaller(rows, BLOCK); ++r, to += step)
      for (int64_t c = 0; c < smaller(cols, BLOCK); c += W) {
        const vf value = from.at(r, c);
        if (past) {
          _mm512_stream_ps(to + c, value);
          continue;
        }
        const __mmask16 live = static_cast<__mmask16>(cols - c < W ? (1 << (cols - c)) - 1 : 0xffff);
        _mm512_mask_storeu_ps(to + c, live, fresh ? value : value + _mm512_maskz_loadu_ps(live, to + c));
      }
  }

  // What a run will read of gate, up and down or of their gradients, fetched into the second-level cache a few lines at
  // a time, over `calls` calls.
  struct AheadRun {
    const float* at[3] = {};
    int64_t step[3] = {}, lines[3] = {}, rows[3] = {}, row = 0, line = 0, pace = 0;
    int place = 0;

    AheadRun(const Matrix& gate, const Matrix& up, const Matrix& down, int64_t width, int64_t hidden, int64_t strip, int64_t calls) {
      const Matrix* all[3] = {&gate, &up, &down};
      const int64_t col = strip * BLOCK, live = smaller(hidden - col, BACKWARD_STRIPS * BLOCK);
      if (live <= 0 || calls <= 0) return;
      for (int m = 0; m < 3; ++m) {
        if (all[m]->bf16 || all[m]->col != 1) return;
        at[m] = static_cast<const float*>(all[m]->data) + (m < 2 ? col : col * all[m]->row);
        step[m] = all[m]->row, lines[m] = ((m < 2 ? live : width) + W - 1) / W, rows[m] = m < 2 ? width : live;
      }
      pace = (2 * lines[0] * rows[0] + lines[2] * rows[2] + calls - 1) / calls;
    }
    RE_INLINE void some() {
      for (int64_t i = 0; i < pace && place < 3; ++i) {
        _mm_prefetch(reinterpret_cast<const char*>(at[place] + row * step[place] + line * W), _MM_HINT_T1);
        if (++line < lines[place]) continue;
        line = 0;
        if (++row == rows[place]) row = 0, ++place;
      }
    }
  };

  static RE_INLINE int64_t backward_groups(int64_t rows) { return smaller(in_blocks(rows), BACKWARD_ROWS / BLOCK); }
  static int64_t backward_scratch(int64_t width, int64_t hidden, int64_t rows) {
    const int64_t steps = in_blocks(width), groups = backward_groups(rows), deep = groups * BLOCK;
    const int64_t strips = smaller(in_blocks(hidden), BACKWARD_STRIPS), inner = strips * BLOCK;
    return 2 * groups * size(width) + 2 * steps * size(deep) + fixed_steps(width) * FIXED_DEEP + 3 * strips * size(width) +
           (steps + 1) * size(2 * inner) + 3 * strips * size(deep) + 3 * deep * inner + 6 * RESULT + 3 * deep +
           Parts::backward_scratch(width, inner, deep);
  }

  static void backward(const Expert& e, const Matrix& x, const Matrix& grad, const ExpertRows& rows, int64_t first,
                       float* x_grad, const ExpertGradient& weights, float* scale_grad, float* scratch) {
    const int64_t steps = in_blocks(e.width), wide = steps * BLOCK, all = in_blocks(e.hidden);
    const int64_t most_groups = backward_groups(rows.count), most_rows = most_groups * BLOCK;
    const int64_t most_strips = smaller(all, BACKWARD_STRIPS), most_inner = most_strips * BLOCK;
    float* left_x = scratch;  // rows as they are, [group]
    float* left_grad = left_x + most_groups * size(e.width);
    float* across_x = left_grad + most_groups * size(e.width);  // rows as inner dimension, by 32 columns
    float* right_grad = across_x + steps * size(most_rows);
    float* line = right_grad + steps * size(most_rows);
    float* panels = line + fixed_steps(e.width) * FIXED_DEEP;    // gate, up, down across [strip][3]
    float* turned = panels + 3 * most_strips * size(e.width);    // gate's and up's columns as inner dimension, by 32 rows
    float* left_change = turned + steps * size(2 * most_inner);  // gradients before the activation, of a group
    float* across = left_change + size(2 * most_inner);                // rows as inner dimension: gate, up, activation [strip][3]
    float* change = across + 3 * most_strips * size(most_rows);        // gradients before the activation [row][gate, up]
    float* active = change + 2 * most_rows * most_inner;               // scaled activation [row]
    float* results = active + most_rows * most_inner;
    float* scale = results + 6 * RESULT;
    float* inner_products = scale + most_rows;
    float* run_products = inner_products + most_rows;
    float* parts = run_products + most_rows;
    const int64_t weight_step = weights.step ? weights.step : e.hidden;
    const bool kept = all_kept(rows, all);
    for (int64_t at = 0; at < rows.count; at += most_rows) {
      const int64_t count = smaller(rows.count - at, most_rows), groups = in_blocks(count), deep = groups * BLOCK;
      const bool fresh = weights.fresh && at == 0;
      const int64_t* index = rows.index + at;
      const auto x_rows = [=](int64_t g) { return FixedOperand(left_x + g * size(e.width), e.width); };
      const auto grad_rows = [=](int64_t g) { return FixedOperand(left_grad + g * size(e.width), e.width); };
      const auto x_columns = [=](int64_t k) { return FixedOperand(across_x + k * size(deep), deep); };
      const auto grad_columns = [=](int64_t k) { return FixedOperand(right_grad + k * size(deep), deep); };
      for (int64_t g = 0; g < groups; ++g) {
        if (!kept) pack_rows(x, index + g * BLOCK, count - g * BLOCK, e.width, line, x_rows(g).digits);
        pack_rows(grad, index + g * BLOCK, count - g * BLOCK, e.width, line, grad_rows(g).digits);
      }
      for (int64_t k = 0; k < steps; ++k) {
        pack_chosen(x, index, count, k * BLOCK, e.width, x_columns(k));
        turn_fixed(x_columns(k));
        pack_chosen(grad, index, count, k * BLOCK, e.width, grad_columns(k));
      }
      for (int64_t r = 0; r < deep; ++r) scale[r] = rows.scale && r < count ? rows.scale[at + r] : 1.f, inner_products[r] = 0.f;
      for (int64_t strip = 0; strip < all; strip += BACKWARD_STRIPS) {
        const int64_t strips = smaller(all - strip, BACKWARD_STRIPS), inner = strips * BLOCK, pair = 2 * inner;
        const auto panel = [=](int64_t s, int64_t m) { return FixedOperand(panels + (3 * s + m) * size(e.width), e.width); };
        const auto back = [=](int64_t j) { return FixedOperand(turned + j * size(pair), pair); };
        const auto columns = [=](int64_t s, int64_t m) { return FixedOperand(across + (3 * s + m) * size(deep), deep); };
        pack_backward_run(e, strip, strips, kept, line, panels, turned);
        const int64_t col = strip * BLOCK, live = smaller(e.hidden - col, inner);
        const FixedOperand change_rows(left_change, pair);
        int64_t done = 0;  // groups whose rows have got their gradient
        std::memset(run_products, 0, sizeof(float) * static_cast<size_t>(deep));
        const auto group = [&](int64_t g, auto&& beside) {
          FixedLevels before, after;
          if (!kept) before.also(x_rows(g).needed());
          before.also(grad_rows(g).needed());
          for (int64_t s = 0; s < strips; ++s)
            for (int64_t m = kept ? 2 : 0; m < 3; ++m) {
              before.also(panel(s, m).needed());
              before.also(m == 2 ? grad_rows(g) : x_rows(g), panel(s, m));
            }
          if (!before.needed) return false;
          Gradients gradients;
          const int64_t fast = pace(BLOCK, kept ? 1 : 3, e.width);
          for (int64_t s = 0; s < strips; ++s) {
            float* three = results + s % 2 * 3 * RESULT;
            const auto made = [&](int64_t m) {
              return product(before.needed, m == 2 ? grad_rows(g) : x_rows(g), panel(s, m), three + m * RESULT, [&] {
                gradients.some(fast);
                beside();
              });
            };
            FixedResult z, u;
            if (!kept) z = made(0), u = made(1);
            const FixedResult y = made(2);
            gradients.some(BLOCK);
            float* to = change + g * BLOCK * pair + s * BLOCK;
            gradients = {z, u, y, kept ? kept_block(rows.kept, (at / BLOCK + g) * all + strip + s) : nullptr, scale + g * BLOCK, scale_grad ? run_products + g * BLOCK : nullptr, to, to + inner,
                         active + g * BLOCK * inner + s * BLOCK, pair, inner, 0};
          }
          gradients.some(BLOCK);
          pack_line(change + g * BLOCK * pair, pair, pair, left_change);
          for (int64_t j = 0; j < steps; ++j) after.also(change_rows, back(j));
          if (!after.needed) return false;
          for (int64_t j = 0; j < steps; ++j)
            add_block(product(after.needed, change_rows, back(j), results, [] {}), index + g * BLOCK, nullptr,
                      count - g * BLOCK, rows.fresh && strip == 0, x_grad + j * BLOCK - first * wide, wide);
          return true;
        };
        FixedLevels to_weights;
        {
          const TileScope tiles;
          AheadRun later({weights.gate, weight_step, 1, false}, {weights.up, weight_step, 1, false}, {weights.down, e.width, 1, false},
                         e.width, e.hidden, strip, fresh ? 0 : groups * strips * 18 * fixed_steps(e.width));
          while (done < groups && group(done, [&] { later.some(); })) ++done;
        }
        if (done == groups) {
          for (int64_t s = 0; s < strips; ++s) {
            for (int64_t m = 0; m < 2; ++m) pack_made(change + m * inner + s * BLOCK, pair, deep, columns(s, m));
            pack_made(active + s * BLOCK, inner, deep, columns(s, 2));
            turn_fixed(columns(s, 2));
          }
          for (int64_t j = 0; j < steps; ++j)
            for (int64_t s = 0; s < strips; ++s) {
              for (int64_t m = 0; m < 2; ++m) to_weights.also(x_columns(j), columns(s, m));
              to_weights.also(columns(s, 2), grad_columns(j));
            }
        }
        if (done < groups || !to_weights.needed) {
          const int64_t before = smaller(done * BLOCK, count);
          const auto in_parts = [&](int64_t from, int64_t n, float* to_rows) {
            const ExpertRows these{index + from, rows.scale ? rows.scale + at + from : nullptr, n, nullptr, false, rows.fresh && strip == 0};
            const ExpertGradient to{weights.gate + col, weights.up + col, weights.down + col * e.width, fresh && from == 0, weight_step};
            if (n > 0) Parts::backward(part(e, strip, strips), x, grad, these, first, to_rows, to, scale_grad ? run_products + from : nullptr, parts);
          };
          in_parts(0, before, nullptr);
          in_parts(before, count - before, x_grad);
        }
        for (int64_t r = 0; scale_grad && r < count; ++r) inner_products[r] += run_products[r];
        if (done < groups || !to_weights.needed) continue;
        const TileScope tiles;
        const auto weight = [&](const FixedOperand& A, const FixedOperand& B, int64_t rows_left, int64_t cols_left, float* to,
                                int64_t step) {
          write_block(product(to_weights.needed, A, B, results, [] {}), rows_left, cols_left, to, step, fresh);
        };
        for (int64_t k = 0; k < steps; ++k)
          for (int64_t s = 0; s < strips; ++s)
            for (int64_t m = 0; m < 2; ++m)
              weight(x_columns(k), columns(s, m), e.width - k * BLOCK, live - s * BLOCK,
                     (m ? weights.up : weights.gate) + k * BLOCK * weight_step + col + s * BLOCK, weight_step);
        for (int64_t s = 0; s < strips; ++s)
          for (int64_t k = 0; k < steps; ++k)
            weight(columns(s, 2), grad_columns(k), live - s * BLOCK, e.width - k * BLOCK,
                   weights.down + (col + s * BLOCK) * e.width + k * BLOCK, e.width);
      }
      for (int64_t r = 0; scale_grad && r < count; ++r) scale_grad[at + r] = inner_products[r];
    }
    _mm_sfence();  // what was written past the cache, before another thread reads it
  }
};
#undef RE_EACH

}  // namespace KERN_NS
#endif
