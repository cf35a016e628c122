#include "embedding/embedding.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "common/checks.h"
#include "common/worker_memory.h"

namespace recengine {
namespace {

using Maybe = std::optional<Tensor>;

int64_t scratch_floats(int64_t d) { return 4 * ((d + 15) / 16 * 16); }

bool low(const Tensor& t) { return t.scalar_type() == ScalarType::BFloat16; }
Matrix matrix(const Tensor& t) { return {t.const_data_ptr(), t.stride(0), t.stride(1), low(t)}; }
MutableMatrix mutable_matrix(const Tensor& t) { return {t.mutable_data_ptr(), t.stride(0), t.stride(1), low(t)}; }
const int64_t* longs(const Tensor& t) { return static_cast<const int64_t*>(t.const_data_ptr()); }

void check_floating(const char* op, const char* name, const Tensor& t) {
  RECENGINE_CHECK(t.scalar_type() == ScalarType::Float || low(t), op, ": ", name, " must be float32 or bfloat16, found ",
                  dtype_name(t));
}

void check_longs(const char* op, const char* name, const Tensor& t) {
  check_dim(op, name, t, 1);
  check_dtype(op, name, t, ScalarType::Long, "int64");
  RECENGINE_CHECK(t.numel() <= 1 || t.stride(0) == 1, op, ": ", name, " must be contiguous");
}

void check_indices(const char* op, const int64_t* index, int64_t entries, int64_t rows) {
  if (RECENGINE_PICK(bag_indices_fit)(index, entries, rows)) return;
  for (int64_t i = 0; i < entries; ++i)
    RECENGINE_CHECK(index[i] >= 0 && index[i] < rows, op, ": indices[", i, "] is ", index[i], ", expected 0 to ",
                    rows - 1);
}

// indices, offsets and per_sample_weights; what the indices hold is not looked at.
Bags check_bags(const char* op, const Tensor& indices, const Tensor& offsets, const Maybe& weights, int64_t d) {
  check_longs(op, "indices", indices);
  check_longs(op, "offsets", offsets);
  const int64_t entries = indices.numel(), bags = offsets.numel() - 1;
  RECENGINE_CHECK(bags >= 0, op, ": offsets is empty, expected one more element than there are bags");
  RECENGINE_CHECK(bags < (int64_t{1} << 31), op, ": offsets names ", bags, " bags, expected fewer than 2^31");
  const int64_t* o = longs(offsets);
  RECENGINE_CHECK(o[0] == 0 && o[bags] == entries, op, ": offsets must run from 0 to ", entries, ", found ", o[0],
                  " and ", o[bags]);
  for (int64_t b = 0; b < bags; ++b) RECENGINE_CHECK(o[b] <= o[b + 1], op, ": offsets falls at ", b + 1);
  if (weights) {
    check_dim(op, "per_sample_weights", *weights, 1);
    check_size(op, "per_sample_weights", *weights, 0, entries);
    check_dtype(op, "per_sample_weights", *weights, ScalarType::Float, "float32");
    RECENGINE_CHECK(entries <= 1 || weights->stride(0) == 1, op, ": per_sample_weights must be contiguous");
  }
  return {longs(indices), o, weights ? static_cast<const float*>(weights->const_data_ptr()) : nullptr, d};
}

Tensor forward(const Tensor& weight, const Tensor& indices, const Tensor& offsets, Maybe weights, bool) {
  const char* op = "embedding_bag_sum";
  check_dim(op, "weight", weight, 2);
  check_floating(op, "weight", weight);
  const int64_t d = weight.size(1), count = offsets.numel() - 1;
  const Bags bags = check_bags(op, indices, offsets, weights, d);
  Tensor out = torch::stable::new_empty(weight, {count, d});
  const Matrix table = matrix(weight);
  const MutableMatrix to = mutable_matrix(out);
  std::atomic<bool> fit{true};
  torch::stable::parallel_for(0, count, 16, [&](int64_t begin, int64_t end) {
    if (!RECENGINE_PICK(bag_sum)(bags, table, weight.size(0), begin, end, to, worker_memory(scratch_floats(d))))
      fit = false;
  });
  if (!fit) check_indices(op, bags.indices, indices.numel(), weight.size(0));
  return out;
}

// The entries by table row, ties by position, and where each table row's entries begin.
struct Sorted {
  std::vector<int64_t> entries, rows, starts;  // starts has one element more than rows
  std::vector<int32_t> bag_of;                 // by entry
};

Sorted sort_entries(const Bags& bags, int64_t entries, int64_t count, int64_t rows) {
  constexpr int BITS = 11;
  Sorted s;
  s.bag_of.resize(entries);
  for (int64_t b = 0; b < count; ++b)
    std::fill(s.bag_of.begin() + bags.offsets[b], s.bag_of.begin() + bags.offsets[b + 1], static_cast<int32_t>(b));
  s.entries.resize(entries);
  std::iota(s.entries.begin(), s.entries.end(), int64_t{0});
  std::vector<int64_t> other(entries);
  for (int shift = 0; (rows - 1) >> shift > 0; shift += BITS) {  // stable counting sort, digit by digit
    std::vector<int64_t> place((size_t{1} << BITS) + 1, 0);
    const auto digit = [&](int64_t e) { return (bags.indices[e] >> shift) & ((1 << BITS) - 1); };
    for (int64_t e : s.entries) ++place[digit(e) + 1];
    std::partial_sum(place.begin(), place.end(), place.begin());
    for (int64_t e : s.entries) other[place[digit(e)]++] = e;
    std::swap(s.entries, other);
  }
  for (int64_t i = 0; i < entries; ++i) {
    const int64_t row = bags.indices[s.entries[i]];
    if (i == 0 || row != s.rows.back()) {
      s.rows.push_back(row);
      s.starts.push_back(i);
    }
  }
  s.starts.push_back(entries);
  return s;
}

Bags check_gradient(const char* op, const Tensor& grad, const Tensor& indices, const Tensor& offsets,
                    const Maybe& weights, int64_t rows) {
  check_dim(op, "grad", grad, 2);
  check_floating(op, "grad", grad);
  RECENGINE_CHECK(rows >= 0, op, ": rows is ", rows, ", expected the number of table rows");
  check_size(op, "grad", grad, 0, offsets.numel() - 1);
  const Bags bags = check_bags(op, indices, offsets, weights, grad.size(1));
  check_indices(op, bags.indices, indices.numel(), rows);
  return bags;
}

// place(k): the row of `out` that the k-th seen table row goes to.
template <class Place>
void gradient_rows(const Bags& bags, const Sorted& s, const Tensor& grad, Tensor& out, Place&& place) {
  const Matrix from = matrix(grad);
  const MutableMatrix to = mutable_matrix(out);
  torch::stable::parallel_for(0, static_cast<int64_t>(s.rows.size()), 16, [&](int64_t begin, int64_t end) {
    float* work = worker_memory(scratch_floats(bags.d));
    for (int64_t k = begin; k < end; ++k)
      RECENGINE_PICK(bag_gradient_row)(bags, from, s.entries.data() + s.starts[k], s.bag_of.data(),
                                       s.starts[k + 1] - s.starts[k], to, place(k), work);
  });
}

Tensor backward(const Tensor& grad, const Tensor& indices, const Tensor& offsets, Maybe weights, int64_t rows) {
  const Bags bags = check_gradient("embedding_bag_sum_backward", grad, indices, offsets, weights, rows);
  Tensor out = torch::stable::new_zeros(grad, {rows, bags.d});
  const Sorted s = sort_entries(bags, indices.numel(), offsets.numel() - 1, rows);
  gradient_rows(bags, s, grad, out, [&](int64_t k) { return s.rows[k]; });
  return out;
}

std::tuple<Tensor, Tensor> backward_rows(const Tensor& grad, const Tensor& indices, const Tensor& offsets,
                                         Maybe weights, int64_t rows) {
  const Bags bags = check_gradient("embedding_bag_sum_rows", grad, indices, offsets, weights, rows);
  const Sorted s = sort_entries(bags, indices.numel(), offsets.numel() - 1, rows);
  const int64_t seen = static_cast<int64_t>(s.rows.size());
  Tensor ids = torch::stable::new_empty(indices, {seen}), values = torch::stable::new_empty(grad, {seen, bags.d});
  std::copy(s.rows.begin(), s.rows.end(), static_cast<int64_t*>(ids.mutable_data_ptr()));
  gradient_rows(bags, s, grad, values, [](int64_t k) { return k; });
  return {ids, values};
}

Tensor backward_weights(const Tensor& grad, const Tensor& weight, const Tensor& indices, const Tensor& offsets) {
  const char* op = "embedding_bag_sum_weights";
  check_dim(op, "weight", weight, 2);
  check_floating(op, "weight", weight);
  const Bags bags = check_gradient(op, grad, indices, offsets, std::nullopt, weight.size(0));
  check_size(op, "grad", grad, 1, weight.size(1));
  Tensor out = torch::stable::new_empty(grad, {indices.numel()}, ScalarType::Float);
  const Matrix from = matrix(grad), table = matrix(weight);
  float* to = static_cast<float*>(out.mutable_data_ptr());
  torch::stable::parallel_for(0, offsets.numel() - 1, 16, [&](int64_t begin, int64_t end) {
    RECENGINE_PICK(bag_weight_gradient)(bags, from, table, begin, end, to, worker_memory(scratch_floats(bags.d)));
  });
  return out;
}

// Rows that rise strictly are rows that no two threads share.
void check_update(const char* op, const Tensor& weight, const Tensor& rows, const Tensor& values) {
  check_dim(op, "weight", weight, 2);
  check_floating(op, "weight", weight);
  check_longs(op, "rows", rows);
  check_dim(op, "values", values, 2);
  check_floating(op, "values", values);
  check_size(op, "values", values, 0, rows.numel());
  check_size(op, "values", values, 1, weight.size(1));
  const int64_t* r = longs(rows);
  for (int64_t i = 0; i < rows.numel(); ++i) {
    RECENGINE_CHECK(r[i] >= 0 && r[i] < weight.size(0), op, ": rows[", i, "] is ", r[i], ", expected 0 to ",
                    weight.size(0) - 1);
    RECENGINE_CHECK(i == 0 || r[i - 1] < r[i], op, ": rows must rise strictly (coalesce the gradient), but rows[", i,
                    "] is ", r[i], " after ", r[i - 1]);
  }
}

void check_state(const char* op, const char* name, const Tensor& state, const Tensor& weight, bool by_row) {
  check_dim(op, name, state, by_row ? 1 : 2);
  check_dtype(op, name, state, ScalarType::Float, "float32");
  check_size(op, name, state, 0, weight.size(0));
  if (!by_row) check_size(op, name, state, 1, weight.size(1));
}

void rowwise_adagrad(Tensor weight, Tensor state, const Tensor& rows, const Tensor& values, double lr, double eps) {
  const char* op = "rowwise_adagrad_";
  check_update(op, weight, rows, values);
  check_state(op, "state", state, weight, true);
  const int64_t d = weight.size(1), step = state.stride(0);
  if (d == 0) return;
  const MutableMatrix table = mutable_matrix(weight);
  const Matrix grad = matrix(values);
  float* sums = static_cast<float*>(state.mutable_data_ptr());
  const int64_t* r = longs(rows);
  torch::stable::parallel_for(0, rows.numel(), 16, [&](int64_t begin, int64_t end) {
    float* work = worker_memory(scratch_floats(d));
    for (int64_t i = begin; i < end; ++i)
      RECENGINE_PICK(adagrad_row)(table, r[i], sums + r[i] * step, grad, i, d, static_cast<float>(lr),
                                  static_cast<float>(eps), work);
  });
}

void sparse_adam(Tensor weight, Tensor mean, Tensor square, const Tensor& rows, const Tensor& values, int64_t step,
                 double lr, double beta1, double beta2, double eps) {
  const char* op = "sparse_adam_";
  check_update(op, weight, rows, values);
  check_state(op, "exp_avg", mean, weight, false);
  check_state(op, "exp_avg_sq", square, weight, false);
  RECENGINE_CHECK(step >= 1, op, ": step is ", step, ", expected 1 for the first update");
  RECENGINE_CHECK(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, op, ": beta1 and beta2 are ", beta1, " and ",
                  beta2, ", expected values in [0, 1)");
  const int64_t d = weight.size(1);
  const MutableMatrix table = mutable_matrix(weight), m = mutable_matrix(mean), v = mutable_matrix(square);
  const Matrix grad = matrix(values);
  const AdamStep how{static_cast<float>(beta1), static_cast<float>(beta2),
                     static_cast<float>(lr / (1.0 - std::pow(beta1, static_cast<double>(step)))),
                     static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta2, static_cast<double>(step)))),
                     static_cast<float>(eps)};
  const int64_t* r = longs(rows);
  torch::stable::parallel_for(0, rows.numel(), 16, [&](int64_t begin, int64_t end) {
    float* work = worker_memory(scratch_floats(d));
    for (int64_t i = begin; i < end; ++i) RECENGINE_PICK(adam_row)(table, r[i], m, v, grad, i, d, how, work);
  });
}

}  // namespace
}  // namespace recengine

STABLE_TORCH_LIBRARY_IMPL(recengine, CPU, lib) {
  lib.impl("embedding_bag_sum", TORCH_BOX(&recengine::forward));
  lib.impl("embedding_bag_sum_backward", TORCH_BOX(&recengine::backward));
  lib.impl("embedding_bag_sum_rows", TORCH_BOX(&recengine::backward_rows));
  lib.impl("embedding_bag_sum_weights", TORCH_BOX(&recengine::backward_weights));
  lib.impl("rowwise_adagrad_", TORCH_BOX(&recengine::rowwise_adagrad));
  lib.impl("sparse_adam_", TORCH_BOX(&recengine::sparse_adam));
}
