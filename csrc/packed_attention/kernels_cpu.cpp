#include "packed_attention/packed_attention.h"

#include "common/cached_products.h"
#include "common/rows.h"
#include "common/small_gemm.h"

namespace KERN_NS {

using recengine::Matrix;
using recengine::MutableMatrix;
using recengine::packed_block;
using recengine::packed_padded;
using recengine::PACKED_PANEL;
using recengine::PackedHead;

namespace {

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

float* take(float*& scratch, int64_t n) {
  float* p = scratch;
  scratch += n;
  return p;
}

// Rows of dp floats: in the tensor itself where they lie so, else in a buffer.
struct Rows {
  const float* at;
  int64_t ld;
};

// Rows [begin, begin + n) of d columns as floats, zeros up to dp.
void copy_rows(const Matrix& m, int64_t begin, int64_t n, int64_t d, float* to) {
  const int64_t dp = packed_padded(d);
  for (int64_t i = 0; i < n; ++i, to += dp) {
    const float* row = read_row(m, begin + i, d, to);
    if (row != to) std::memcpy(to, row, sizeof(float) * static_cast<size_t>(d));
    for (int64_t j = d; j < dp; ++j) to[j] = 0.f;
  }
}

Rows rows_of(const Matrix& m, int64_t begin, int64_t n, int64_t d, float* buffer) {
  if (!m.bf16 && m.col == 1 && d % 16 == 0) return {static_cast<const float*>(m.data) + begin * m.row, m.row};
  copy_rows(m, begin, n, d, buffer);
  return {buffer, packed_padded(d)};
}

// Rows that every block goes through anew: a copy, too, where their distance would put them all into the same few places of
// the first-level cache.
Rows reread(const Matrix& m, int64_t n, int64_t d, float* buffer) {
  if (m.row % 512 != 0) return rows_of(m, 0, n, d, buffer);
  copy_rows(m, 0, n, d, buffer);
  return {buffer, packed_padded(d)};
}

// n rows of dp floats as panels [dp, up to PACKED_PANEL] one behind the other, with columns of zeros up to a multiple of 16.
void across(Rows rows, int64_t n, int64_t dp, float* panels) {
  float last[16 * recengine::PACKED_MAX_D];
  for (int64_t j = 0; j < n; j += PACKED_PANEL) {
    const int64_t count = smaller(PACKED_PANEL, n - j), width = packed_padded(count), whole = count / 16 * 16;
    const float* from = rows.at + j * rows.ld;
    float* to = panels + j * dp;
    transpose(whole, dp, from, rows.ld, to, width);
    if (whole == count) continue;
    std::memset(last, 0, sizeof(float) * static_cast<size_t>(16 * dp));
    for (int64_t i = whole; i < count; ++i)
      std::memcpy(last + (i - whole) * dp, from + i * rows.ld, sizeof(float) * static_cast<size_t>(dp));
    transpose(16, dp, last, dp, to + whole, width);
  }
}

// C[m, up] = rows . (the rows that lie across)^T; up is a multiple of 16.
void times_across(Rows rows, int64_t m, const float* panels, int64_t np, int64_t dp, int64_t up, float* C, Ahead& ahead) {
  for (int64_t j = 0; j < up; j += PACKED_PANEL)
    rows_times(m, smaller(PACKED_PANEL, up - j), dp, rows.at, rows.ld, panels + j * dp, smaller(PACKED_PANEL, np - j),
               C + j, np, nullptr, ahead);
}

// The block of queries [begin, begin + count) of a head, and how many keys the last of them sees.
struct Block {
  int64_t begin, count, seen;
  int64_t up() const { return packed_padded(seen); }
};

int64_t position(const PackedHead& h, int64_t i) { return h.wanted ? h.wanted[i] - h.first : i; }
int64_t seen_by(const PackedHead& h, int64_t i) { return h.causal ? position(h, i) + 1 : h.n; }

template <class Body>
void each_block(const PackedHead& h, Body&& body) {
  const int64_t rows = packed_block(h.n);
  for (int64_t i = 0; i < h.asked; i += rows) {
    const int64_t count = smaller(rows, h.asked - i);
    body(Block{i, count, seen_by(h, i + count - 1)});
  }
}

void clear(float* x, int64_t from, int64_t to) {
  if (from < to) std::memset(x + from, 0, sizeof(float) * static_cast<size_t>(to - from));
}

// --- softmax

// x with -inf in all lanes but the first n. (Single floats stored here would hold up the vector loads behind them.)
RE_INLINE vf first_lanes(vf x, int64_t n) {
  static constexpr float lane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load(lane) < splat(static_cast<float>(n)) ? x : splat(-__builtin_inff());
}

// Scores of a row to exp(scale (x - largest)), zeros from `seen` up to `up`. Returns their sum.
float exponentials(float* x, int64_t seen, int64_t up, float scale) {
  const int64_t end = packed_padded(seen);
  for (int64_t j = seen / W * W; j < end; j += W) store(x + j, first_lanes(load(x + j), seen - j));
  vf most = load(x);
  for (int64_t j = W; j < end; j += W) most = vmax(load(x + j), most);
  const float peak = hmax(most);
  vf sum{};
  for (int64_t j = 0; j < end; j += W) {
    const vf y = vexp((load(x + j) - peak) * scale);
    store(x + j, y);
    sum += y;
  }
  clear(x, seen, up);
  return hsum(sum);
}

// x: scores of a row, g: gradients of its weights. x becomes the weights, g the gradients of the scores; zeros from `seen`
// up to `up`. (Weights made again from a kept logarithm of the sum do not add up to one where scores are large, and the
// difference of g and its mean would show it.)
void softmax_row_backward(float* x, float* g, int64_t seen, int64_t up, float scale) {
  const int64_t end = packed_padded(seen);
  const float share = 1.f / exponentials(x, seen, up, scale);
  vf sum{};
  for (int64_t j = 0; j < end; j += W) {
    const vf y = load(x + j) * share;
    store(x + j, y);
    sum += y * load(g + j);
  }
  const float mean = hsum(sum);
  for (int64_t j = 0; j < end; j += W) store(g + j, load(x + j) * (load(g + j) - mean) * scale);
  clear(g, seen, up);
}

// --- gated

// floor(log2(1 + max(gap, 0)))
int bucket_of(int64_t gap) { return gap <= 0 ? 0 : 63 - __builtin_clzll(static_cast<unsigned long long>(gap) + 1); }

// Calls body(j, bucket) for the keys that a query at `at` sees. Times rise along a sequence, so a bucket holds for a run of
// keys as a rule: the bounds of the last one are tried first.
template <class Body>
RE_INLINE void each_bucket(const int64_t* times, int64_t at, int64_t seen, Body&& body) {
  const int64_t now = times[at];
  int bucket = 0;
  int64_t low = 0, high = 0;  // gaps of this bucket
  for (int64_t j = 0; j < seen; ++j) {
    const int64_t gap = now > times[j] ? now - times[j] : 0;
    if (gap < low || gap > high) {
      bucket = bucket_of(gap);
      low = (int64_t{1} << bucket) - 1;
      high = 2 * low;
    }
    body(j, bucket);
  }
}

void add_bias(const PackedHead& h, int64_t at, int64_t seen, float* x) {
  const float* distance = h.by_distance + h.limit - 1 - at;
  for (int64_t j = 0; j < seen; j += W) store(x + j, load(x + j) + load(distance + j));
  if (h.times) each_bucket(h.times, at, seen, [&](int64_t j, int bucket) { x[j] += h.by_time[bucket]; });
}

// x: q . k of a row to its weights, zeros from the keys that it sees up to `up`.
void gated_row(const PackedHead& h, int64_t i, int64_t up, float* x) {
  const int64_t at = position(h, i), seen = at + 1;
  add_bias(h, at, seen, x);
  for (int64_t j = 0; j < seen; j += W) {
    const vf y = load(x + j);
    store(x + j, y * vsigmoid(y) * h.share);
  }
  clear(x, seen, up);
}

void gated_row_backward(const PackedHead& h, int64_t i, int64_t up, float* x, float* g) {
  const int64_t at = position(h, i), seen = at + 1;
  add_bias(h, at, seen, x);
  for (int64_t j = 0; j < seen; j += W) {
    const vf y = load(x + j), s = vsigmoid(y);
    store(g + j, load(g + j) * h.share * (s * (1.f + y * (1.f - s))));
    store(x + j, y * s * h.share);
  }
  clear(x, seen, up);
  clear(g, seen, up);
  float* distance = h.d_distance + h.limit - 1 - at;
  for (int64_t j = 0; j < seen; ++j) distance[j] += g[j];
  if (h.times) each_bucket(h.times, at, seen, [&](int64_t j, int bucket) { h.d_time[bucket] += static_cast<double>(g[j]); });
}

// --- heads

// Fetches the rows at `next` that lie as those of m do.
void soon(const Matrix& m, const void* next, int64_t rows, int64_t d, Ahead& ahead) {
  const int64_t size = m.bf16 ? 2 : 4;
  ahead.add(next, rows, m.row * size, d * size);
}

// weigh(block, scores [count, np], factor [count]): scores to weights; what their products with v are multiplied by.
template <class Weigh>
void forward(const PackedHead& h, float* scratch, Weigh&& weigh) {
  if (h.asked == 0 || h.n == 0) return;
  const int64_t np = packed_padded(h.n), dp = packed_padded(h.d), most = packed_block(h.n);
  float *keys = take(scratch, np * dp), *values = take(scratch, np * dp), *panels = take(scratch, np * dp);
  float *scores = take(scratch, most * np), *query = take(scratch, most * dp), *made = take(scratch, most * dp);
  float* factor = take(scratch, most);
  Ahead nothing;
  across(rows_of(h.k, 0, h.n, h.d, keys), h.n, dp, panels);
  const Rows v = reread(h.v, h.n, h.d, values);
  each_block(h, [&](const Block& b) {
    Ahead first, second;  // the next head comes while the last block is at work
    if (b.begin + b.count == h.asked) {
      soon(h.q, h.next.q, h.next.asked, h.d, first);
      soon(h.k, h.next.k, h.next.n, h.d, first);
      soon(h.v, h.next.v, h.next.n, h.d, second);
    }
    times_across(rows_of(h.q, b.begin, b.count, h.d, query), b.count, panels, np, dp, b.up(), scores, first);
    weigh(b, scores, factor);
    const bool direct = !h.out.bf16 && h.d == dp;
    float* to = direct ? static_cast<float*>(h.out.data) + b.begin * h.out.row : made;
    rows_times_any(b.count, dp, b.seen, scores, np, v.at, v.ld, to, direct ? h.out.row : dp, factor, second);
    if (!direct)
      for (int64_t i = 0; i < b.count; ++i) write_row(h.out, b.begin + i, h.d, made + i * dp);
  });
}

// weigh(block, scores, slopes): scores to weights, and their gradients to those of the scores.
template <class Weigh>
void backward(const PackedHead& h, float* scratch, Weigh&& weigh) {
  const int64_t np = packed_padded(h.n), dp = packed_padded(h.d), most = packed_block(h.n);
  float *keys = take(scratch, np * dp), *key_panels = take(scratch, np * dp), *value_panels = take(scratch, np * dp);
  float *dk = take(scratch, np * dp), *dv = take(scratch, np * dp), *values = take(scratch, np * dp);
  float *scores = take(scratch, most * np), *slopes = take(scratch, most * np);
  float *query = take(scratch, most * dp), *grad = take(scratch, most * dp), *made = take(scratch, most * dp);
  Ahead nothing;
  clear(dk, 0, np * dp);
  clear(dv, 0, np * dp);
  const Rows k = reread(h.k, h.n, h.d, keys);
  if (h.asked > 0) {
    across(k, h.n, dp, key_panels);
    across(rows_of(h.v, 0, h.n, h.d, values), h.n, dp, value_panels);
  }
  each_block(h, [&](const Block& b) {
    const Rows q = rows_of(h.q, b.begin, b.count, h.d, query), g = rows_of(h.grad, b.begin, b.count, h.d, grad);
    Ahead first, second;
    if (b.begin + b.count == h.asked) {
      soon(h.q, h.next.q, h.next.asked, h.d, first);
      soon(h.k, h.next.k, h.next.n, h.d, first);
      soon(h.v, h.next.v, h.next.n, h.d, second);
      soon(h.grad, h.next.grad, h.next.asked, h.d, second);
    }
    times_across(q, b.count, key_panels, np, dp, b.up(), scores, first);
    times_across(g, b.count, value_panels, np, dp, b.up(), slopes, second);
    weigh(b, scores, slopes);
    add_outer(b.seen, dp, b.count, scores, np, g.at, g.ld, dv, dp, nothing);
    add_outer(b.seen, dp, b.count, slopes, np, q.at, q.ld, dk, dp, nothing);
    const bool direct = !h.dq.bf16 && h.d == dp;
    float* to = direct ? static_cast<float*>(h.dq.data) + b.begin * h.dq.row : made;
    rows_times_any(b.count, dp, b.seen, slopes, np, k.at, k.ld, to, direct ? h.dq.row : dp, nullptr, nothing);
    if (!direct)
      for (int64_t i = 0; i < b.count; ++i) write_row(h.dq, b.begin + i, h.d, made + i * dp);
  });
  for (int64_t j = 0; j < h.n; ++j) {
    write_row(h.dk, j, h.d, dk + j * dp);
    write_row(h.dv, j, h.d, dv + j * dp);
  }
}

}  // namespace

void softmax_attention_forward(const PackedHead& h, float* scratch) {
  const int64_t np = packed_padded(h.n);
  forward(h, scratch, [&](const Block& b, float* scores, float* factor) {
    for (int64_t i = 0; i < b.count; ++i)
      factor[i] = 1.f / exponentials(scores + i * np, seen_by(h, b.begin + i), b.up(), h.scale);
  });
}

void softmax_attention_backward(const PackedHead& h, float* scratch) {
  const int64_t np = packed_padded(h.n);
  backward(h, scratch, [&](const Block& b, float* scores, float* slopes) {
    for (int64_t i = 0; i < b.count; ++i)
      softmax_row_backward(scores + i * np, slopes + i * np, seen_by(h, b.begin + i), b.up(), h.scale);
  });
}

void gated_attention_forward(const PackedHead& h, float* scratch) {
  const int64_t np = packed_padded(h.n);
  forward(h, scratch, [&](const Block& b, float* scores, float* factor) {
    for (int64_t i = 0; i < b.count; ++i) {
      gated_row(h, b.begin + i, b.up(), scores + i * np);
      factor[i] = 1.f;
    }
  });
}

void gated_attention_backward(const PackedHead& h, float* scratch) {
  const int64_t np = packed_padded(h.n);
  backward(h, scratch, [&](const Block& b, float* scores, float* slopes) {
    for (int64_t i = 0; i < b.count; ++i) gated_row_backward(h, b.begin + i, b.up(), scores + i * np, slopes + i * np);
  });
}

}  // namespace KERN_NS
