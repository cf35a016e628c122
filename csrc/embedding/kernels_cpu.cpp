#include "embedding/embedding.h"

#include "common/rows.h"

namespace KERN_NS {

using recengine::AdamStep;
using recengine::Bags;
using recengine::Matrix;
using recengine::MutableMatrix;

namespace {

constexpr int64_t AHEAD = 24;  // entries between the request for a row and its use

template <class Body>
RE_INLINE void lanes(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + W <= n; i += W) body(i, W);
  if (i < n) body(i, static_cast<int>(n - i));
}
RE_INLINE vf get(const float* p, int n) { return n == W ? load(p) : load_n(p, n); }
RE_INLINE void put(float* p, vf v, int n) { n == W ? store(p, v) : store_n(p, v, n); }

// An address to ask for, as a number: the index may not have been looked at yet, and asking is harmless.
RE_INLINE const char* far_row(const void* data, int64_t row, int64_t bytes) {
  return reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(data) +
                                       static_cast<uintptr_t>(row) * static_cast<uintptr_t>(bytes));
}

void request(const Matrix& m, int64_t row, int64_t d) {
  const int64_t size = m.bf16 ? 2 : 4;
  const char* p = far_row(m.data, row, m.row * size);
  if (m.col == 1)
    for (int64_t byte = 0; byte < d * size; byte += 64) __builtin_prefetch(p + byte);
}

int64_t rounded(int64_t n) { return (n + 15) / 16 * 16; }

// sum += weight * row
RE_INLINE void add_row(const Matrix& m, int64_t row, float weight, int64_t d, float* sum, float* buffer) {
  const float* x = read_row(m, row, d, buffer);
  lanes(d, [&](int64_t i, int n) { put(sum + i, get(sum + i, n) + get(x + i, n) * weight, n); });
}

Matrix reading(const MutableMatrix& m) { return {m.data, m.row, m.col, m.bf16}; }

// The sum of `count` weighted rows, in registers: VECS vectors of columns from `column` on. entry(i) is the
// row of entry i, factor(i) its weight.
template <int VECS, class Row, class Factor>
RE_INLINE void sum_columns(const float* rows, int64_t step, int64_t column, int64_t count, Row&& row, Factor&& factor,
                           float* out) {
  vf sum[VECS] = {};
  for (int64_t i = 0; i < count; ++i) {
    const float* x = rows + row(i) * step + column;
    const float w = factor(i);
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) sum[v] += load(x + v * W) * w;
  }
#pragma GCC unroll 4
  for (int v = 0; v < VECS; ++v) store(out + column + v * W, sum[v]);
}

// sum [d] of weighted rows of m; request(i) is called ahead of entry i.
template <class Row, class Factor, class Ahead>
RE_INLINE void sum_rows(const Matrix& m, int64_t d, int64_t count, Row&& row, Factor&& factor, Ahead&& ahead,
                        float* sum, float* buffer) {
  if (!m.bf16 && m.col == 1 && d % W == 0) {
    const float* rows = static_cast<const float*>(m.data);
    const auto first = [&](int64_t i) {
      ahead(i);
      return row(i);
    };
    int64_t c = 0;
    if (d >= 4 * W) sum_columns<4>(rows, m.row, 0, count, first, factor, sum), c = 4 * W;
    for (; c + 4 * W <= d; c += 4 * W) sum_columns<4>(rows, m.row, c, count, row, factor, sum);
    for (; c < d; c += W) sum_columns<1>(rows, m.row, c, count, row, factor, sum);
    return;
  }
  std::memset(sum, 0, sizeof(float) * static_cast<size_t>(d));
  for (int64_t i = 0; i < count; ++i) {
    ahead(i);
    add_row(m, row(i), factor(i), d, sum, buffer);
  }
}

// VECS vectors of columns of the sum of `count` rows of floats; the first `more` entries ask for the row AHEAD of them.
template <int VECS, bool WEIGHTED>
RE_INLINE void bag_columns(const float* rows, int64_t step, const int64_t* index, const float* weight, int64_t count,
                           int64_t more, float* out) {
  vf sum[VECS] = {};
  const auto add = [&](int64_t i) {
    const float* x = rows + index[i] * step;
#pragma GCC unroll 4
    for (int v = 0; v < VECS; ++v) sum[v] += WEIGHTED ? load(x + v * W) * weight[i] : load(x + v * W);
  };
  int64_t i = 0;
  for (; i < more; ++i) {
    const char* next = far_row(rows, index[i + AHEAD], step * 4);
#pragma GCC unroll 4
    for (int line = 0; line < VECS * W * 4; line += 64) __builtin_prefetch(next + line);
    add(i);
  }
  for (; i < count; ++i) add(i);
#pragma GCC unroll 4
  for (int v = 0; v < VECS; ++v) store(out + v * W, sum[v]);
}

// The bag of entries [from, to) of a table of floats whose width is a multiple of W.
template <bool WEIGHTED>
RE_INLINE void sum_bag(const Bags& bags, const float* rows, int64_t step, int64_t from, int64_t to, int64_t last, float* out) {
  const int64_t count = to - from, left = last - AHEAD - from;
  const int64_t more = left < 0 ? 0 : left < count ? left : count;
  const int64_t* index = bags.indices + from;
  const float* weight = WEIGHTED ? bags.weights + from : nullptr;
  int64_t c = 0;
  for (; c + 4 * W <= bags.d; c += 4 * W) bag_columns<4, WEIGHTED>(rows + c, step, index, weight, count, more, out + c);
  for (; c < bags.d; c += W) bag_columns<1, WEIGHTED>(rows + c, step, index, weight, count, more, out + c);
}

// Where a row of floats lies contiguous, sums go straight there.
RE_INLINE float* straight(const MutableMatrix& m, int64_t row) {
  return !m.bf16 && m.col == 1 ? static_cast<float*>(m.data) + row * m.row : nullptr;
}

}  // namespace

bool bag_indices_fit(const int64_t* indices, int64_t n, int64_t rows) {
  const auto largest = static_cast<uint64_t>(rows - 1);
  uint64_t signs = 0;  // the top bit is set as soon as one index, or its distance to the last row, is negative
  for (int64_t i = 0; i < n; ++i)
    signs |= static_cast<uint64_t>(indices[i]) | (largest - static_cast<uint64_t>(indices[i]));
  return signs >> 63 == 0;
}

bool bag_sum(const Bags& bags, const Matrix& table, int64_t rows, int64_t begin, int64_t end, const MutableMatrix& out,
             float* scratch) {
  float* buffer = scratch + rounded(bags.d);
  const int64_t last = bags.offsets[end];
  const bool plain = !table.bf16 && table.col == 1 && bags.d % W == 0;
  for (int64_t b = begin; b < end; ++b) {
    const int64_t from = bags.offsets[b];
    if (!bag_indices_fit(bags.indices + from, bags.offsets[b + 1] - from, rows)) return false;
    float* direct = straight(out, b);
    float* sum = direct ? direct : scratch;
    if (direct && plain) {
      const float* floats = static_cast<const float*>(table.data);
      if (bags.weights)
        sum_bag<true>(bags, floats, table.row, from, bags.offsets[b + 1], last, direct);
      else
        sum_bag<false>(bags, floats, table.row, from, bags.offsets[b + 1], last, direct);
      continue;
    }
    sum_rows(
        table, bags.d, bags.offsets[b + 1] - from, [&](int64_t i) { return bags.indices[from + i]; },
        [&](int64_t i) { return bags.weights ? bags.weights[from + i] : 1.f; },
        [&](int64_t i) {
          if (from + i + AHEAD < last) request(table, bags.indices[from + i + AHEAD], bags.d);
        },
        sum, buffer);
    if (!direct) write_row(out, b, bags.d, sum);
  }
  return true;
}

void bag_gradient_row(const Bags& bags, const Matrix& grad, const int64_t* entries, const int32_t* bag_of, int64_t n,
                      const MutableMatrix& out, int64_t row, float* scratch) {
  float* buffer = scratch + rounded(bags.d);
  float* direct = straight(out, row);
  float* sum = direct ? direct : scratch;
  sum_rows(
      grad, bags.d, n, [&](int64_t i) { return int64_t{bag_of[entries[i]]}; },
      [&](int64_t i) { return bags.weights ? bags.weights[entries[i]] : 1.f; },
      [&](int64_t i) {
        if (i + AHEAD < n) request(grad, bag_of[entries[i + AHEAD]], bags.d);
      },
      sum, buffer);
  if (!direct) write_row(out, row, bags.d, sum);
}

void bag_weight_gradient(const Bags& bags, const Matrix& grad, const Matrix& table, int64_t begin, int64_t end,
                         float* out, float* scratch) {
  float *buffer = scratch, *buffer2 = scratch + rounded(bags.d);
  for (int64_t b = begin; b < end; ++b) {
    if (bags.offsets[b] == bags.offsets[b + 1]) continue;
    const float* g = read_row(grad, b, bags.d, buffer);
    for (int64_t i = bags.offsets[b]; i < bags.offsets[b + 1]; ++i) {
      const float* x = read_row(table, bags.indices[i], bags.d, buffer2);
      vf sum{};
      lanes(bags.d, [&](int64_t j, int n) { sum += get(g + j, n) * get(x + j, n); });
      out[i] = hsum(sum);
    }
  }
}

void adagrad_row(const MutableMatrix& table, int64_t row, float* state, const Matrix& grad, int64_t from, int64_t d,
                 float lr, float eps, float* scratch) {
  float *w = scratch, *buffer = scratch + rounded(d);
  const float* g = read_row(grad, from, d, buffer);
  vf sum{};
  lanes(d, [&](int64_t i, int n) { sum += get(g + i, n) * get(g + i, n); });
  *state += hsum(sum) / static_cast<float>(d);
  const float step = lr / (__builtin_sqrtf(*state) + eps);
  const float* old = read_row(reading(table), row, d, w);
  lanes(d, [&](int64_t i, int n) { put(w + i, get(old + i, n) - get(g + i, n) * step, n); });
  write_row(table, row, d, w);
}

void adam_row(const MutableMatrix& table, int64_t row, const MutableMatrix& mean, const MutableMatrix& square,
              const Matrix& grad, int64_t from, int64_t d, const AdamStep& step, float* scratch) {
  const int64_t width = rounded(d);
  float *w = scratch, *m = w + width, *v = m + width, *buffer = v + width;
  const float* g = read_row(grad, from, d, buffer);
  const float* old_w = read_row(reading(table), row, d, w);
  const float* old_m = read_row(reading(mean), row, d, m);
  const float* old_v = read_row(reading(square), row, d, v);
  lanes(d, [&](int64_t i, int n) {
    const vf x = get(g + i, n), mi = get(old_m + i, n), vi_ = get(old_v + i, n);
    const vf new_m = mi + (x - mi) * (1.f - step.beta1);
    const vf new_v = vi_ + (x * x - vi_) * (1.f - step.beta2);
    put(m + i, new_m, n);
    put(v + i, new_v, n);
    put(w + i, get(old_w + i, n) - new_m * step.step_size / (vsqrt(new_v) * step.scale2 + step.eps), n);
  });
  write_row(table, row, d, w);
  write_row(mean, row, d, m);
  write_row(square, row, d, v);
}

}  // namespace KERN_NS
