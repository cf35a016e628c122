#include "moe/kernels.h"

#include <type_traits>

#include "common/gemm.h"
#include "common/rows.h"
#include "moe/kept.h"
#include "moe/swiglu_fixed.h"

// SwiGLU experts. Rows are gathered side by side as left operands; the hidden layer lives in
// strips of NR columns ([strip][row][NR]), a layout that serves as a left operand (rows by hidden) and as a
// right operand (rows are the inner dimension) alike, so nothing is ever transposed. Neither the hidden
// layer nor the experts' outputs reach memory; the backward pass makes the hidden layer again.
namespace KERN_NS {

using recengine::Expert;
using recengine::ExpertGradient;
using recengine::ExpertRows;
using recengine::Matrix;
using recengine::MutableMatrix;
using recengine::Router;

namespace {

constexpr int FORWARD_STRIPS = 4;   // strips of the hidden layer that are live at a time
constexpr int BACKWARD_STRIPS = 2;

RE_INLINE int64_t up_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Columns [col, col + NR) of the first `depth` rows of m, as a panel [depth][NR]; columns past `cols` are zero.
void pack_columns(const Matrix& m, int64_t depth, int64_t col, int64_t cols, float* to) {
  const int64_t n = cols - col < NR ? cols - col : NR;
  const Matrix part = shifted(m, 0, col);
  float buffer[NR];
  for (int64_t k = 0; k < depth; ++k, to += NR) {
    const float* from = read_row(part, k, n, buffer);
    if (n == NR) {
      store(to, load(from));
      store(to + W, load(from + W));
    } else {
      for (int64_t x = 0; x < NR; ++x) to[x] = x < n ? from[x] : 0.f;
    }
  }
}

// Rows [row, row + NR) of m as the columns of a panel [depth][NR]: m transposed. Rows past `rows` are zero.
RE_NOINLINE void pack_rows_across(const Matrix& m, int64_t depth, int64_t row, int64_t rows, float* to) {
  pack_across<NR>(m, [row](int64_t x) { return row + x; }, rows - row, depth, to);
}

// Floats between rows of a left operand: a tile read across reaches past the last column. At a multiple of 256 all rows of a
// tile would share few of the first cache's sets.
RE_INLINE int64_t left_step(int64_t width) {
  const int64_t step = up_to(width + MR, W);
  return step % 256 ? step : step + W;
}

// The given rows of x as left operand [up_to(count, MR)][left_step(width)]; what does not exist is zero.
RE_NOINLINE void gather_left(const Matrix& x, const int64_t* index, int64_t count, int64_t width, float* to) {
  const int64_t step = left_step(width), padded = up_to(count, MR);
  for (int64_t r = 0; r < count; ++r, to += step) {
    const float* from = read_row(x, index[r], width, to);
    int64_t k = 0;
    for (; from != to && k + W <= width; k += W) store(to + k, load(from + k));
    for (; from != to && k < width; ++k) to[k] = from[k];
    std::memset(to + width, 0, sizeof(float) * static_cast<size_t>(step - width));
  }
  std::memset(to, 0, sizeof(float) * static_cast<size_t>((padded - count) * step));
}

RE_INLINE int64_t strips_from(int64_t hidden, int64_t strip, int64_t most) {
  const int64_t left = up_to(hidden, NR) / NR - strip;
  return left < most ? left : most;
}

// Strips [strip, strip + strips): gate and up panels [strip][2][width][NR], then down [wide/NR][strips * NR][NR].
void pack_forward(const Expert& e, int64_t strip, int64_t strips, float* to) {
  for (int64_t s = 0; s < strips; ++s) {
    pack_columns(e.gate, e.width, (strip + s) * NR, e.hidden, to);
    pack_columns(e.up, e.width, (strip + s) * NR, e.hidden, to + e.width * NR);
    to += 2 * e.width * NR;
  }
  const int64_t first = strip * NR, depth = strips * NR, live = e.hidden - first < depth ? e.hidden - first : depth;
  for (int64_t j = 0; j < e.width; j += NR, to += depth * NR) {
    pack_columns(shifted(e.down, first, 0), live, j, e.width, to);
    std::memset(to + live * NR, 0, sizeof(float) * static_cast<size_t>((depth - live) * NR));
  }
}

RE_INLINE vf sigmoid(vf x) { return 1.f / (1.f + vexp(-x)); }

enum class Pass { forward, backward };

// Hidden columns from which the forward pass gains by fixed point (with fewer its last product is too short); the
// backward pass always does.
constexpr int64_t FIXED_HIDDEN = 64;

// Calls fn with the way of the processor's tiles or bf16 units to do it, where it has some that gain, and says so.
template <class F>
RE_INLINE bool on_blocks(Pass pass, bool bf16, int64_t width, int64_t hidden, F&& fn) {
#ifdef RECENGINE_AMX
  const bool tiles = recengine::amx_live();
  if (!tiles) {
    // Narrower than a block, the float32 vectors do less in vain.
    if (!bf16 || width < BLOCK || hidden < BLOCK || !recengine::bf16_dots_live()) return false;
    fn(TiledSwiglu<1, Bf16Dots>{});
  } else if (bf16)
    fn(TiledSwiglu<1>{});
  else if (width <= FIXED_MOST && (pass == Pass::backward || hidden >= FIXED_HIDDEN))
    fn(FixedSwiglu{});
  else
    fn(TiledSwiglu<3>{});
  return true;
#else
  (void)pass, (void)bf16, (void)width, (void)hidden, (void)fn;
  return false;
#endif
}

// Rows [g, g + MR) of an expert's outputs, 32 columns of them, scaled and added to the rows that they belong to (or written).
template <bool ADD>
RE_NOINLINE void add_outputs(int64_t segments, const float* A, int64_t a_step, const float* B, const ExpertRows& rows,
                             int64_t g, float* sum, int64_t first, int64_t wide) {
  const int64_t live = rows.count - g;
  const int64_t* index = rows.index + g;
  const float* scale = rows.scale ? rows.scale + g : nullptr;
  micro_segments<NR, NR>(segments, A, a_step, B, [&](int i, vf x, vf y) {
    if (i >= live) return;
    float* to = sum + (index[i] - first) * wide;
    const vf times = splat(scale ? scale[i] : 1.f);
    store(to, times * x + (ADD ? load(to) : vf{}));
    store(to + W, times * y + (ADD ? load(to + W) : vf{}));
  });
}

RE_INLINE bool all_bf16(const Expert& e) { return e.gate.bf16 && e.up.bf16 && e.down.bf16; }

void clear_sums(const ExpertRows& rows, int64_t first, int64_t wide, float* sum) {
  for (int64_t r = 0; rows.fresh && r < rows.count; ++r)
    std::memset(sum + (rows.index[r] - first) * wide, 0, sizeof(float) * static_cast<size_t>(wide));
}

// Packed weights serve rows of their own kind only; without blocks there is one kind.
RE_INLINE const float* packed_for(const Expert& e, const Matrix& x) {
  const bool other = all_bf16(e) && !x.bf16 && on_blocks(Pass::forward, true, e.width, e.hidden, [](auto) {});
  return other ? nullptr : e.packed;
}
RE_INLINE Expert for_rows(Expert e, const Matrix& x) {
  e.packed = packed_for(e, x);
  return e;
}

}  // namespace

int64_t swiglu_row_size(int64_t width) { return up_to(width, NR); }

int64_t swiglu_packed_size(int64_t width, int64_t hidden, bool bf16) {
  int64_t size = 0;
  if (on_blocks(Pass::forward, bf16, width, hidden, [&](auto tiled) { size = tiled.packed_size(width, hidden); })) return size;
  return up_to(hidden, NR) * (2 * width + up_to(width, NR));
}

int64_t swiglu_kept_size(int64_t hidden) { return kept_strips(hidden) * KEPT_BLOCK; }

int64_t swiglu_forward_scratch(int64_t width, int64_t hidden, int64_t rows, bool bf16) {
  int64_t size = 0;
  if (on_blocks(Pass::forward, bf16, width, hidden, [&](auto tiled) { size = tiled.forward_scratch(width, hidden, rows); })) return size;
  const int64_t padded = up_to(rows, MR);
  return padded * left_step(width) + FORWARD_STRIPS * NR * (padded + 2 * width + up_to(width, NR));
}

int64_t swiglu_backward_scratch(int64_t width, int64_t hidden, int64_t rows, bool bf16) {
  int64_t size = 0;
  if (on_blocks(Pass::backward, bf16, width, hidden, [&](auto tiled) { size = tiled.backward_scratch(width, hidden, rows); })) return size;
  const int64_t padded = up_to(rows, MR), wide = up_to(width, NR), strip = BACKWARD_STRIPS * NR;
  return padded * (2 * left_step(width) + wide) + strip * (3 * padded + 3 * width + 2 * wide) + 3 * up_to(width, MR) * strip + padded;
}

void swiglu_pack(const Expert& e, float* packed) {
  if (on_blocks(Pass::forward, all_bf16(e), e.width, e.hidden, [&](auto tiled) { tiled.pack(e, packed); })) return;
  for (int64_t strip = 0; strip * NR < e.hidden; strip += FORWARD_STRIPS) {
    const int64_t strips = strips_from(e.hidden, strip, FORWARD_STRIPS);
    pack_forward(e, strip, strips, packed);
    packed += strips * NR * (2 * e.width + up_to(e.width, NR));
  }
}

int64_t swiglu_prepared_size(int64_t width, int64_t hidden, int64_t rows, bool bf16) {
  int64_t size = 0;
#ifdef RECENGINE_AMX
  on_blocks(Pass::forward, bf16, width, hidden, [&](auto tiled) {
    if constexpr (std::is_same_v<decltype(tiled), TiledSwiglu<3>>) size = tiled.prepared_size(width, rows);
  });
#else
  (void)width, (void)hidden, (void)rows, (void)bf16;
#endif
  return size;
}

void swiglu_prepare(const Matrix& x, int64_t first, int64_t last, int64_t width, float* to) {
#ifdef RECENGINE_AMX
  TiledSwiglu<3>::prepare(x, first, last, width, to);
#else
  (void)x, (void)first, (void)last, (void)width, (void)to;
#endif
}

void swiglu_forward(const Expert& e, const Matrix& x, const ExpertRows& rows, int64_t first, float* sum, float* scratch) {
  if (e.hidden == 0 || rows.count == 0) {
    clear_sums(rows, first, up_to(e.width, NR), sum);
    return;
  }
  if (on_blocks(Pass::forward, all_bf16(e) && x.bf16, e.width, e.hidden, [&](auto tiled) { tiled.forward(for_rows(e, x), x, rows, first, sum, scratch); })) return;
  const int64_t padded = up_to(rows.count, MR), wide = up_to(e.width, NR), step = left_step(e.width);
  float* left = scratch;
  float* hidden = left + padded * step;
  float* own = hidden + FORWARD_STRIPS * NR * padded;
  gather_left(x, rows.index, rows.count, e.width, left);
  if (rows.kept) clear_around_kept(rows.kept, e.hidden, rows.count, up_to(e.hidden, NR));
  const bool is_packed = packed_for(e, x) != nullptr;
  const float* packed = e.packed;
  for (int64_t strip = 0; strip * NR < e.hidden; strip += FORWARD_STRIPS) {
    const int64_t strips = strips_from(e.hidden, strip, FORWARD_STRIPS);
    if (!is_packed) pack_forward(e, strip, strips, own);
    const float* panels = is_packed ? packed : own;
    packed += strips * NR * (2 * e.width + wide);
    for (int64_t s = 0; s < strips; ++s, panels += 2 * e.width * NR)
      for (int64_t g = 0; g < padded; g += MR) {
        float* h = hidden + (s * padded + g) * NR;
        float linear[MR * NR];
        tile_rows(e.width, left + g * step, step, panels, h, NR);
        tile_rows(e.width, left + g * step, step, panels + e.width * NR, linear, NR);
        for (int64_t i = 0; i < MR; ++i) {
          float* kept = rows.kept && g + i < rows.count ? kept_row(rows.kept, e.hidden, g + i, (strip + s) * NR) : nullptr;
          for (int64_t c = 0; c < NR; c += W) {
            const vf z = load(h + i * NR + c), u = load(linear + i * NR + c);
            store(h + i * NR + c, z * sigmoid(z) * u);
            if (!kept) continue;
            keep(kept + c, z);
            keep(kept + KEPT_EDGE * KEPT_EDGE + c, u);
          }
        }
      }
    const bool fresh = rows.fresh && strip == 0;
    for (int64_t j = 0; j < wide; j += NR, panels += strips * NR * NR)
      for (int64_t g = 0; g < padded; g += MR)
        if (fresh)
          add_outputs<false>(strips, hidden + g * NR, padded * NR, panels, rows, g, sum + j, first, wide);
        else
          add_outputs<true>(strips, hidden + g * NR, padded * NR, panels, rows, g, sum + j, first, wide);
  }
  if (rows.kept) published();
}

void swiglu_backward(const Expert& e, const Matrix& x, const Matrix& grad, const ExpertRows& rows, int64_t first,
                     float* x_grad, const ExpertGradient& weights, float* scale_grad, float* scratch) {
  if (e.hidden == 0) {
    clear_sums(rows, first, up_to(e.width, NR), x_grad);
    for (int64_t r = 0; scale_grad && r < rows.count; ++r) scale_grad[r] = 0.f;
    return;
  }
  if (on_blocks(Pass::backward, all_bf16(e) && x.bf16 && grad.bf16, e.width, e.hidden,
               [&](auto tiled) { tiled.backward(e, x, grad, rows, first, x_grad, weights, scale_grad, scratch); }))
    return;
  clear_sums(rows, first, up_to(e.width, NR), x_grad);
  const int64_t weight_step = weights.step ? weights.step : e.hidden;
  if (weights.fresh) {
    for (int64_t d = 0; d < e.width; ++d) {
      std::memset(weights.gate + d * weight_step, 0, sizeof(float) * static_cast<size_t>(e.hidden));
      std::memset(weights.up + d * weight_step, 0, sizeof(float) * static_cast<size_t>(e.hidden));
    }
    std::memset(weights.down, 0, sizeof(float) * static_cast<size_t>(e.width * e.hidden));
  }
  const int64_t padded = up_to(rows.count, MR), wide = up_to(e.width, NR), deep = up_to(e.width, MR), step = left_step(e.width);
  constexpr int64_t STRIP = BACKWARD_STRIPS * NR;
  float* left_x = scratch;                        // [padded][step]
  float* left_grad = left_x + padded * step;
  float* change = left_grad + padded * step;      // gradient of the gathered rows [padded][wide]
  float* hidden = change + padded * wide;         // scale * activation [strip][padded][NR]
  float* to_gate = hidden + STRIP * padded;       // gradients before the activation: gate strips, then up strips
  float* panels = to_gate + 2 * STRIP * padded;
  float* sums = panels + STRIP * (3 * e.width + 2 * wide);  // [3][deep][NR]: gate, up, down transposed
  float* products = sums + 3 * deep * NR;                   // <activation, its gradient> a row
  gather_left(x, rows.index, rows.count, e.width, left_x);
  gather_left(grad, rows.index, rows.count, e.width, left_grad);
  std::memset(change, 0, sizeof(float) * static_cast<size_t>(padded * wide));
  std::memset(products, 0, sizeof(float) * static_cast<size_t>(padded));
  for (int64_t strip = 0; strip * NR < e.hidden; strip += BACKWARD_STRIPS) {
    const int64_t strips = strips_from(e.hidden, strip, BACKWARD_STRIPS);
    float* to_up = to_gate + strips * padded * NR;
    for (int64_t s = 0; s < strips; ++s) {
      const int64_t col = (strip + s) * NR;
      float* gate_panel = panels;
      float* up_panel = gate_panel + e.width * NR;
      float* down_panel = up_panel + e.width * NR;
      if (!rows.kept) {
        pack_columns(e.gate, e.width, col, e.hidden, gate_panel);
        pack_columns(e.up, e.width, col, e.hidden, up_panel);
      }
      pack_rows_across(e.down, e.width, col, e.hidden, down_panel);
      for (int64_t g = 0; g < padded; g += MR) {
        const int64_t at = (s * padded + g) * NR;
        float *h = hidden + at, *dg = to_gate + at, *du = to_up + at;
        if (!rows.kept) {
          tile_rows(e.width, left_x + g * step, step, gate_panel, dg, NR);
          tile_rows(e.width, left_x + g * step, step, up_panel, du, NR);
        }
        tile_rows(e.width, left_grad + g * step, step, down_panel, h, NR);
        for (int64_t i = 0; i < MR; ++i) {
          const vf scale = splat(rows.scale && g + i < rows.count ? rows.scale[g + i] : 1.f);
          vf product{};
          if (rows.kept && g + i >= rows.count) {
            std::memset(dg + i * NR, 0, sizeof(float) * NR), std::memset(du + i * NR, 0, sizeof(float) * NR);
            std::memset(h + i * NR, 0, sizeof(float) * NR);
            continue;
          }
          const float* gate_before = rows.kept ? kept_row(rows.kept, e.hidden, g + i, col) : dg + i * NR;
          const float* up_before = rows.kept ? gate_before + KEPT_EDGE * KEPT_EDGE : du + i * NR;
          for (int64_t c = i * NR; c < (i + 1) * NR; c += W) {
            const vf z = load(gate_before + c - i * NR), u = load(up_before + c - i * NR), back = load(h + c);
            const vf gate = sigmoid(z), swish = z * gate, active = swish * u;
            product += active * back;
            const vf scaled = scale * back;
            store(h + c, scale * active);
            store(dg + c, scaled * u * (gate + swish * (1.f - gate)));
            store(du + c, scaled * swish);
          }
          products[g + i] += hsum(product);
        }
      }
      // The three weights' gradients: left operands read across, so that rows are the inner dimension.
      const float* rights[3] = {to_gate + s * padded * NR, to_up + s * padded * NR, hidden + s * padded * NR};
      const float* lefts[3] = {left_x, left_x, left_grad};
      for (int m = 0; m < 3; ++m)
        for (int64_t d = 0; d < e.width; d += MR)
          tile_across(padded, lefts[m] + d, step, rights[m], sums + (m * deep + d) * NR, NR);
      const int64_t n = e.hidden - col < NR ? e.hidden - col : NR;
      for (int64_t d = 0; d < e.width; ++d) {
        float *gate_to = weights.gate + d * weight_step + col, *up_to_ = weights.up + d * weight_step + col;
        for (int64_t c = 0; c < n; ++c) gate_to[c] += sums[d * NR + c];
        for (int64_t c = 0; c < n; ++c) up_to_[c] += sums[(deep + d) * NR + c];
      }
      for (int64_t c = 0; c < n; ++c) {
        float* down_to = weights.down + (col + c) * e.width;
        for (int64_t d = 0; d < e.width; ++d) down_to[d] += sums[(2 * deep + d) * NR + c];
      }
    }
    // Back to the rows of x: gate strips and up strips are one long inner dimension.
    const int64_t depth = 2 * strips * NR;
    for (int64_t j = 0; j < wide; j += NR) {
      float* panel = panels;
      const Matrix* both[2] = {&e.gate, &e.up};
      for (const Matrix* m : both)
        for (int64_t s = 0; s < strips; ++s) {
          const int64_t col = (strip + s) * NR, live = e.hidden - col < NR ? e.hidden - col : NR;
          pack_rows_across(shifted(*m, 0, col), live, j, e.width, panel);
          std::memset(panel + live * NR, 0, sizeof(float) * static_cast<size_t>((NR - live) * NR));
          panel += NR * NR;
        }
      for (int64_t g = 0; g < padded; g += MR)
        tile_segments<NR, NR, true>(depth / NR, to_gate + g * NR, padded * NR, panels, change + g * wide + j, wide);
    }
  }
  for (int64_t r = 0; r < rows.count; ++r) {
    float* to = x_grad + (rows.index[r] - first) * wide;
    for (int64_t k = 0; k < wide; k += W) store(to + k, load(to + k) + load(change + r * wide + k));
  }
  if (scale_grad)
    for (int64_t r = 0; r < rows.count; ++r) scale_grad[r] = products[r];
}

// Rows of one token position lie a whole sample apart, where the processor does not foresee them.
RE_INLINE void fetch_row(const void* data, int64_t row, int64_t step, int64_t width, bool bf16, int64_t last) {
  constexpr int64_t AHEAD = 6;
  if (row + AHEAD >= last) return;
  const int64_t size = bf16 ? 2 : 4;
  const char* p = static_cast<const char*>(data) + (row + AHEAD) * step * size;
  for (int64_t byte = 0; byte < width * size; byte += 64) __builtin_prefetch(p + byte, 0, 2);
}

Matrix copy_rows(const Matrix& from, int64_t first, int64_t last, int64_t width, float* to) {
  for (int64_t r = first; r < last; ++r, to += width) {
    fetch_row(from.data, r, from.row, width, from.bf16, last);
    const float* row = read_row(from, r, width, to);
    if (row != to) std::memcpy(to, row, sizeof(float) * static_cast<size_t>(width));
  }
  return {to - last * width, width, 1, false};
}

void write_rows(const float* sum, int64_t first, int64_t last, int64_t width, const MutableMatrix& to) {
  const int64_t wide = up_to(width, NR);
  for (int64_t r = first; r < last; ++r) {
    fetch_row(to.data, r, to.row, width, to.bf16, last);
    write_row(to, r, width, sum + (r - first) * wide);
  }
}

void round_past(const float* from, int64_t n, uint16_t* to) {
  int64_t i = 0;
#ifdef RECENGINE_AMX
  if (reinterpret_cast<uintptr_t>(to) % 64 == 0)
    for (; i + 2 * W <= n; i += 2 * W)
      for (int64_t half = i; half < i + 2 * W; half += W)
        _mm256_stream_si256(reinterpret_cast<__m256i*>(to + half), narrow_bf16(load(from + half)));
  _mm_sfence();
#endif
  for (; i < n; ++i) to[i] = float_to_bf16(from[i]);
}

// --- routing

int64_t router_line(int64_t width) { return up_to(width, W); }

void router_pack_across(const Matrix& weight, int64_t width, int64_t experts, float* packed) {
  const int64_t step = router_line(width);
  for (int64_t e = 0; e < experts; ++e)
    for (int64_t k = 0; k < step; ++k) {
      float value = 0.f, buffer[1];
      if (k < width) value = *read_row(shifted(weight, k, e), 0, 1, buffer);
      packed[e * step + k] = value;
    }
}

namespace {

// So few experts that their logits are dot products along a row: with more of them a vector of experts is made at once.
constexpr int64_t DOT_EXPERTS = W / 2;

}  // namespace

int64_t router_padded(int64_t experts) { return up_to(experts, W); }
int64_t router_size(int64_t width, int64_t experts) {
  return experts <= DOT_EXPERTS ? experts * router_line(width) : width * router_padded(experts);
}

void router_pack(const Matrix& weight, int64_t width, int64_t experts, float* packed) {
  if (experts <= DOT_EXPERTS) {
    router_pack_across(weight, width, experts, packed);
    return;
  }
  const int64_t wide = router_padded(experts);
  for (int64_t k = 0; k < width; ++k)
    for (int64_t e = 0; e < wide; ++e) {
      float value = 0.f, buffer[1];
      if (e < experts) value = *read_row(shifted(weight, k, e), 0, 1, buffer);
      packed[k * wide + e] = value;
    }
}

namespace {

// Integers in the order of the floats; both zeros are one, NaN is the largest.
RE_INLINE vi ordered(vf x) {
  x = x + 0.f;
  vi bits;
  std::memcpy(&bits, &x, sizeof(bits));
  bits = x != x ? vi{} + 0x7fffffff : bits;  // whatever its sign: that of inf - inf is set
  return bits ^ ((bits >> 31) & 0x7fffffff);
}
RE_INLINE vi pick(vi mask, vi a, vi b) { return (a & mask) | (b & ~mask); }
RE_INLINE vf pick(vi mask, vf a, vf b) { return reinterpret_cast<vf>(pick(mask, reinterpret_cast<vi>(a), reinterpret_cast<vi>(b))); }

// W rows of x, zeros behind what exists. Rows that do not lie so go to the buffer, which is zero behind them.
struct RouterRows {
  const float* row[W];

  RouterRows(const Router& r, int64_t b, int64_t rows, float* buffer) {
    const int64_t step = up_to(r.width, W);
    for (int64_t i = 0; i < W; ++i, buffer += step) {
      row[i] = i < rows ? read_row(r.x, b + i, r.width, buffer) : row[0];
      if (row[i] == buffer || step == r.width || i >= rows) continue;
      std::memcpy(buffer, row[i], sizeof(float) * static_cast<size_t>(r.width));
      row[i] = buffer;
    }
  }
};

// Logits of W rows, a vector of rows an expert; ahead(i) is called for each row. Few experts: dot products along a row.
template <class Ahead>
RE_INLINE void logits_by_dots(const Router& r, const RouterRows& x, float* logits, Ahead&& ahead) {
  const int64_t step = router_line(r.width);
  for (int64_t e = 0; e < r.experts; ++e) {
    for (int64_t i = e * W / r.experts; i < (e + 1) * W / r.experts; ++i) ahead(i);
    vf sum[W] = {};
    const float* weight = r.weight + e * step;
    for (int64_t k = 0; k < step; k += W) {
      const vf w = load(weight + k);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) sum[i] += load(x.row[i] + k) * w;
    }
    store(logits + e * W, sum_each(sum));
  }
}

// Many experts: a vector of them a row, turned over.
template <class Ahead>
RE_INLINE void logits_by_experts(const Router& r, const RouterRows& x, float* logits, Ahead&& ahead) {
  const int64_t wide = router_padded(r.experts);
  for (int64_t e = 0; e < wide; e += W) {
    vf made[W];
    for (int i = 0; i < W; ++i) {
      if (e == 0) ahead(i);
      const float* row = x.row[i];
      vf a0{}, a1{}, a2{}, a3{};  // four chains hide the latency
      int64_t k = 0;
      for (; k + 4 <= r.width; k += 4) {
        const float* w = r.weight + k * wide + e;
        a0 += row[k] * load(w);
        a1 += row[k + 1] * load(w + wide);
        a2 += row[k + 2] * load(w + 2 * wide);
        a3 += row[k + 3] * load(w + 3 * wide);
      }
      for (; k < r.width; ++k) a0 += row[k] * load(r.weight + k * wide + e);
      made[i] = (a0 + a1) + (a2 + a3);
    }
    transpose(made);
    for (int i = 0; i < W; ++i) store(logits + (e + i) * W, made[i]);
  }
}

// The k experts with the largest logits of each of W rows, the larger first and of equal ones the smaller number first,
// and the softmax over them; no branch depends on the logits. `spare` holds two vectors an expert.
RE_INLINE void choose(const Router& r, const float* logits, int64_t rows, int64_t out_step, int64_t* chosen, float* gate,
                      float* spare) {
  const vi none{};
  float *untaken = spare, *picked = spare + r.experts * W;
  for (int64_t e = 0; e < r.experts; ++e) store(untaken + e * W, reinterpret_cast<vf>(~none));
  for (int64_t j = 0; j < r.k; ++j) {
    vi best{}, place{}, found{};
    vf value{};
    for (int64_t e = 0; e < r.experts; ++e) {
      const vf own = load(logits + e * W);
      const vi key = ordered(own), better = reinterpret_cast<vi>(load(untaken + e * W)) & (~found | (key > best));
      best = pick(better, key, best);
      value = pick(better, own, value);
      place = pick(better, none + static_cast<int32_t>(e), place);
      found |= better;
    }
    store(picked + j * W, value);
    for (int64_t i = 0; i < rows; ++i) {
      untaken[place[i] * W + i] = 0.f;
      chosen[i * out_step + j] = place[i];
    }
  }
  const vf top = load(picked);
  vf total{};
  for (int64_t j = 0; j < r.k; ++j) {
    const vf below = load(picked + j * W) - top;
    const vf share = pick(below < -87.3f, vf{}, vexp(below));  // where vexp stops falling
    total += share;
    store(picked + j * W, share);
  }
  for (int64_t j = 0; j < r.k; ++j) {
    const vf share = load(picked + j * W) / total;
    for (int64_t i = 0; i < rows; ++i) gate[i * out_step + j] = share[i];
  }
}

}  // namespace

int64_t route_scratch(int64_t width, int64_t experts) { return W * (up_to(width, W) + 3 * router_padded(experts)); }

void route_rows(const Router& r, int64_t begin, int64_t end, int64_t out_step, int64_t* experts, float* gates,
                float* scratch) {
  float* logits = scratch + W * up_to(r.width, W);
  float* spare = logits + W * router_padded(r.experts);
  if (r.width % W) std::memset(scratch, 0, sizeof(float) * static_cast<size_t>(W * up_to(r.width, W)));
  for (int64_t b = begin; b < end; b += W) {
    const int64_t rows = end - b < W ? end - b : W;
    const RouterRows x(r, b, rows, scratch);
    const int64_t size = r.x.bf16 ? 2 : 4;
    const auto ahead = [&](int64_t i) {  // what lies behind a row: as a rule that of the next position, whose turn is next
      const char* row = static_cast<const char*>(r.x.data) + (b + i) * r.x.row * size;
      for (int64_t byte = r.width * size; byte < 2 * r.width * size; byte += 64) __builtin_prefetch(row + byte, 0, 2);
    };
    if (r.experts <= DOT_EXPERTS)
      logits_by_dots(r, x, logits, ahead);
    else
      logits_by_experts(r, x, logits, ahead);
    choose(r, logits, rows, out_step, experts + b * out_step, gates + b * out_step, spare);
  }
}

void route_backward(const Router& r, int64_t out_step, const int64_t* experts, const float* gates, const float* gates_grad,
                    float* x_grad, int64_t x_step, float* weight_grad, float* scratch) {
  const int64_t step = router_line(r.width);
  float* sum = scratch + step;  // scratch: a row of x, then its gradient
  for (int64_t b = 0; b < r.rows; ++b) {
    const float* x = read_row(r.x, b, r.width, scratch);
    if (x != scratch) std::memcpy(scratch, x, sizeof(float) * static_cast<size_t>(r.width));
    for (int64_t k = r.width; k < step; ++k) scratch[k] = 0.f;
    const float *g = gates + b * out_step, *dg = gates_grad + b * out_step;
    float inner = 0.f;
    for (int64_t j = 0; j < r.k; ++j) inner += g[j] * dg[j];
    std::memset(sum, 0, sizeof(float) * static_cast<size_t>(step));
    for (int64_t j = 0; j < r.k; ++j) {  // only the chosen experts' logits have a gradient
      const float change = g[j] * (dg[j] - inner);
      const float* w = r.weight + experts[b * out_step + j] * step;
      float* to = weight_grad + experts[b * out_step + j] * step;
      for (int64_t k = 0; k < step; k += W) {
        store(sum + k, load(sum + k) + change * load(w + k));
        store(to + k, load(to + k) + change * load(scratch + k));
      }
    }
    std::memcpy(x_grad + b * x_step, sum, sizeof(float) * static_cast<size_t>(r.width));
  }
}

}  // namespace KERN_NS
