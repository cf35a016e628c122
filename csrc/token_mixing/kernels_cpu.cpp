#include "token_mixing/token_mixing.h"

#include "common/bf16.h"

namespace KERN_NS {

using recengine::Matrix;
using recengine::MixGradients;
using recengine::MixSample;
using recengine::MutableMatrix;

namespace {

// body(i, lanes): whole vectors first, then what is left of n.
template <class Body>
RE_INLINE void lanes(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + W <= n; i += W) body(i, W);
  if (i < n) body(i, static_cast<int>(n - i));
}
RE_INLINE vf get(const float* p, int n) { return n == W ? load(p) : load_n(p, n); }
RE_INLINE void put(float* p, vf v, int n) { n == W ? store(p, v) : store_n(p, v, n); }

Matrix at(const Matrix& m, int64_t row, int64_t col) {
  const int64_t size = m.bf16 ? 2 : 4;
  return {static_cast<const char*>(m.data) + (row * m.row + col * m.col) * size, m.row, m.col, m.bf16};
}
// mix_row where whole vectors of T lie side by side.
template <class T>
float mix_vectors(const MixSample& a, int64_t h, float* s) {
  const T* x = static_cast<const T*>(a.x.data) + h * a.part;
  const T* r = a.residual.data ? static_cast<const T*>(a.residual.data) + h * a.residual.row : nullptr;
  vf sum[2] = {};
  for (int64_t t = 0; t < a.tokens; ++t, x += a.x.row, s += a.part) {
    const T* own = r ? r + t * a.part : nullptr;
    const auto one = [&](int64_t j, vf& squares) {
      vf v = load(x + j);
      if (own) v += load(own + j);
      squares += v * v;
      store(s + j, v);
    };
    int64_t j = 0;
    for (; j + 2 * W <= a.part; j += 2 * W) one(j, sum[0]), one(j + W, sum[1]);
    if (j < a.part) one(j, sum[0]);
  }
  return hsum(sum[0] + sum[1]);
}

// Part h of the next sample: its rows are read in pieces, which the processor does not foresee.
void fetch_next(const MixSample& a, int64_t h) {
  for (int64_t i = a.next_bytes * h / a.heads; i < a.next_bytes * (h + 1) / a.heads; i += 64) __builtin_prefetch(a.next + i, 0, 2);
}

// Row h of s, and the sum of its squares.
float mix_row(const MixSample& a, int64_t h, float* s, float* buffer) {
  const int64_t width = a.tokens * a.part;
  const bool added = a.residual.data != nullptr;
  vf sum{};
  if (a.part % W == 0 && a.x.col == 1 && (!added || (a.residual.col == 1 && a.residual.bf16 == a.x.bf16)))
    return a.x.bf16 ? mix_vectors<bf16>(a, h, s) : mix_vectors<float>(a, h, s);
  for (int64_t t = 0; t < a.tokens; ++t) {
    const float* x = read_row(at(a.x, t, h * a.part), 0, a.part, buffer);
    std::memcpy(s + t * a.part, x, sizeof(float) * static_cast<size_t>(a.part));
  }
  const float* r = added ? read_row(a.residual, h, width, buffer) : nullptr;
  lanes(width, [&](int64_t i, int n) {
    vf v = get(s + i, n);
    if (added) v += get(r + i, n);
    sum += v * v;
    put(s + i, v, n);
  });
  return hsum(sum);
}

// y = s * r * w, straight into memory where it lies as floats.
void write_scaled(const MutableMatrix& out, int64_t h, const float* s, const float* w, float r, int64_t width,
                  float* buffer) {
  if (out.bf16 && out.col == 1 && width % W == 0) {
    bf16* y = static_cast<bf16*>(out.data) + h * out.row;
    for (int64_t i = 0; i < width; i += W) store(y + i, load(s + i) * r * load(w + i));
    return;
  }
  const bool straight = !out.bf16 && out.col == 1;
  float* y = straight ? static_cast<float*>(out.data) + h * out.row : buffer;
  lanes(width, [&](int64_t i, int n) { put(y + i, get(s + i, n) * r * get(w + i, n), n); });
  if (!straight) write_row(out, h, width, buffer);
}

int64_t rounded(int64_t n) { return (n + 15) / 16 * 16; }

// dL/ds of row h into ds; adds the weight's gradient.
void row_backward(const MixSample& a, const MixGradients& g, int64_t h, float* ds, float* s, float* buffer,
                  float* buffer2) {
  const int64_t width = a.tokens * a.part;
  const float* gm = g.mixed.data ? read_row(g.mixed, h, width, buffer2) : nullptr;
  if (!g.normed.data) {
    std::memcpy(ds, gm, sizeof(float) * static_cast<size_t>(width));
    return;
  }
  const float* row = s;
  if (g.saved.data)
    row = read_row(g.saved, h, width, s);
  else
    mix_row(a, h, s, buffer);
  const float* gy = read_row(g.normed, h, width, buffer);
  const float r = g.rstd[h];
  vf sum{};
  lanes(width, [&](int64_t i, int n) {
    const vf up = get(gy + i, n), unit = get(row + i, n) * r;
    put(g.weight + i, get(g.weight + i, n) + up * unit, n);
    const vf scaled = up * get(a.weight + i, n);
    sum += scaled * unit;
    put(ds + i, scaled, n);
  });
  const float mean = hsum(sum) / static_cast<float>(width);
  lanes(width, [&](int64_t i, int n) {
    vf d = (get(ds + i, n) - get(row + i, n) * (r * mean)) * r;
    if (gm) d += get(gm + i, n);
    put(ds + i, d, n);
  });
}

}  // namespace

void mix_read(const Matrix& row, int64_t n, float* to) {
  const float* p = read_row(row, 0, n, to);
  if (p != to) std::memcpy(to, p, sizeof(float) * static_cast<size_t>(n));
}

void mix_forward(const MixSample& a, const MutableMatrix& normed, const MutableMatrix& mixed, float* rstd,
                 float* scratch) {
  const int64_t width = a.tokens * a.part;
  float *s = scratch, *buffer = scratch + rounded(width);
  for (int64_t h = 0; h < a.heads; ++h) {
    fetch_next(a, h);
    const float squares = mix_row(a, h, s, buffer);
    if (mixed.data) write_row(mixed, h, width, s);
    if (!a.weight) continue;
    rstd[h] = 1.f / __builtin_sqrtf(squares / static_cast<float>(width) + a.eps);
    write_scaled(normed, h, s, a.weight, rstd[h], width, buffer);
  }
}

void mix_backward(const MixSample& a, const MixGradients& g, float* scratch) {
  const int64_t width = a.tokens * a.part, step = rounded(width);
  float *s = scratch, *buffer = s + step, *buffer2 = buffer + step, *ds = buffer2 + step, *row = ds + a.heads * width;
  for (int64_t h = 0; h < a.heads; ++h) {
    row_backward(a, g, h, ds + h * width, s, buffer, buffer2);
    if (g.residual.data) write_row(g.residual, h, width, ds + h * width);
  }
  // x[t, h * part + j] went to s[h, t * part + j], and to s at its own place where it was the residual.
  const int64_t d = a.heads * a.part;
  const bool straight = a.part % W == 0 && !g.x.bf16 && g.x.col == 1;
  for (int64_t t = 0; t < a.tokens; ++t) {
    float* dx = straight ? static_cast<float*>(g.x.data) + t * g.x.row : row;
    for (int64_t h = 0; h < a.heads; ++h) {
      const float* from = ds + h * width + t * a.part;
      float* to = dx + h * a.part;
      if (g.into_input) {
        const float* own = ds + t * width + h * a.part;  // tokens == heads here: width == d
        lanes(a.part, [&](int64_t i, int n) { put(to + i, get(from + i, n) + get(own + i, n), n); });
      } else {
        lanes(a.part, [&](int64_t i, int n) { put(to + i, get(from + i, n), n); });
      }
    }
    if (!straight) write_row(g.x, t, d, row);
  }
}

}  // namespace KERN_NS
