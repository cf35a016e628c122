// Sums of table rows, their gradient by table row, and optimiser steps on the rows that were seen, as the
// kernels see them (no torch here).
//
// Entry i of bag b (offsets[b] <= i < offsets[b + 1]) adds weights[i] * table[indices[i]] to out[b]. For the
// gradient the entries are sorted by table row, ties by position: a table row is summed by one thread, in
// the order of the batch, so the bits do not depend on the threads and nothing is written twice.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/matrix.h"

namespace recengine {

struct Bags {
  const int64_t* indices;
  const int64_t* offsets;
  const float* weights;  // one an entry, or null: 1
  int64_t d;
};

struct AdamStep {
  float beta1, beta2, step_size, scale2, eps;  // step_size: lr / (1 - beta1^t); scale2: 1 / sqrt(1 - beta2^t)
};

}  // namespace recengine

RECENGINE_DECLARE(
    // The sums of bags [begin, end) of a table of `rows` rows. False, and bags left out, where an index names none
    // of them: the indices are looked at on the way, while they are in cache.
    bool bag_sum(const recengine::Bags& bags, const recengine::Matrix& table, int64_t rows, int64_t begin, int64_t end,
                 const recengine::MutableMatrix& out, float* scratch);
    // Whether n indices lie in [0, rows).
    bool bag_indices_fit(const int64_t* indices, int64_t n, int64_t rows);
    // out[row] = sum over the n sorted entries of weight * grad[bag].
    void bag_gradient_row(const recengine::Bags& bags, const recengine::Matrix& grad, const int64_t* entries,
                          const int32_t* bag_of, int64_t n, const recengine::MutableMatrix& out, int64_t row,
                          float* scratch);
    // out[i] = grad[b] . table[indices[i]] for the entries of bags [begin, end).
    void bag_weight_gradient(const recengine::Bags& bags, const recengine::Matrix& grad,
                             const recengine::Matrix& table, int64_t begin, int64_t end, float* out, float* scratch);
    // Row-wise Adagrad: state += mean(g^2), w -= lr g / (sqrt(state) + eps).
    void adagrad_row(const recengine::MutableMatrix& table, int64_t row, float* state, const recengine::Matrix& grad,
                     int64_t from, int64_t d, float lr, float eps, float* scratch);
    // Adam on one row, with the bias correction of the global step.
    void adam_row(const recengine::MutableMatrix& table, int64_t row, const recengine::MutableMatrix& mean,
                  const recengine::MutableMatrix& square, const recengine::Matrix& grad, int64_t from, int64_t d,
                  const recengine::AdamStep& step, float* scratch);)
