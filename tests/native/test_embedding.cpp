#include "embedding/embedding.h"
#include "native_test.h"

using namespace native;
using namespace recengine;

namespace {

int64_t scratch_floats(int64_t d) { return 4 * ((d + 15) / 16 * 16); }

void check(int64_t V, int64_t B, int64_t d, bool bf16, bool weighted) {
  Buffer table(V, d, bf16, 3), grad(B, d, bf16, 1), out(B, d, bf16, 0, false);
  std::vector<int64_t> offsets{0}, indices;
  std::vector<int32_t> bag_of;
  std::vector<float> factors;
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t i = below(6); i > 0 && V; --i) {
      indices.push_back(below(V));
      bag_of.push_back(static_cast<int32_t>(b));
      factors.push_back(weighted ? normal() : 1.f);
    }
    offsets.push_back(static_cast<int64_t>(indices.size()));
  }
  const Bags bags{indices.data(), offsets.data(), weighted ? factors.data() : nullptr, d};
  Scratch scratch(scratch_floats(d));
  const std::string name = "embedding V" + std::to_string(V) + " d" + std::to_string(d) + (bf16 ? " bf16" : "");
  std::vector<double> sum(B * d), by_row(V * d), by_entry(indices.size());
  for (size_t i = 0; i < indices.size(); ++i)
    for (int64_t j = 0; j < d; ++j) {
      sum[bag_of[i] * d + j] += factors[i] * table.at(indices[i], j);
      by_row[indices[i] * d + j] += factors[i] * grad.at(bag_of[i], j);
      by_entry[i] += grad.at(bag_of[i], j) * table.at(indices[i], j);
    }
  expect(RECENGINE_PICK(bag_sum)(bags, table.view(), V, 0, B, out.to(), scratch.get()), "embedding: good indices refused");
  for (const int64_t wrong : {V, int64_t{-1}, int64_t{1} << 62}) {
    if (indices.empty()) continue;
    std::vector<int64_t> bad = indices;
    bad.back() = wrong;
    const Bags other{bad.data(), offsets.data(), bags.weights, d};
    Buffer left(B, d, bf16, 0, false);
    expect(!RECENGINE_PICK(bag_sum)(other, table.view(), V, 0, B, left.to(), scratch.get()),
           "embedding: an index outside the table was taken");
  }
  close(out, sum, name + " sum");
  Buffer rows(V, d, bf16, 0, false), entries(1, static_cast<int64_t>(indices.size()), false, 0, false);
  for (int64_t r = 0; r < V; ++r) {
    std::vector<int64_t> seen;
    for (size_t i = 0; i < indices.size(); ++i)
      if (indices[i] == r) seen.push_back(static_cast<int64_t>(i));
    RECENGINE_PICK(bag_gradient_row)(bags, grad.view(), seen.data(), bag_of.data(), static_cast<int64_t>(seen.size()),
                                     rows.to(), r, scratch.get());
  }
  close(rows, by_row, name + " gradient");
  RECENGINE_PICK(bag_weight_gradient)(bags, grad.view(), table.view(), 0, B, entries.wide.data(), scratch.get());
  close(entries, by_entry, name + " gradient of the factors");
}

}  // namespace

NATIVE_TEST(embedding_against_loops) {
  for (const bool bf16 : {false, true})
    for (const bool weighted : {false, true})
      for (const int64_t d : {1, 5, 16, 33, 64})
        for (const int64_t V : {1, 9}) {
          check(V, 7, d, bf16, weighted);
          check(V, 0, d, bf16, weighted);
        }
  check(0, 3, 8, false, false);
  check(3, 3, 0, false, false);
}

NATIVE_TEST(row_updates_against_loops) {
  for (const bool bf16 : {false, true})
    for (const int64_t d : {1, 5, 16, 33}) {
      Buffer table(3, d, bf16, 2), grad(1, d, bf16), mean(3, d), square(3, d);
      for (float& x : square.wide) x = x * x;
      Scratch scratch(scratch_floats(d));
      float state = 0.25f;
      std::vector<double> want(3 * d), wide_m(3 * d), wide_v(3 * d);
      double squares = 0;
      for (int64_t j = 0; j < d; ++j) squares += grad.at(0, j) * grad.at(0, j) / static_cast<double>(d);
      for (int64_t i = 0; i < 3 * d; ++i)
        want[i] = table.at(i / d, i % d) - (i / d == 1 ? 0.1 * grad.at(0, i % d) / (std::sqrt(0.25 + squares) + 1e-8) : 0);
      RECENGINE_PICK(adagrad_row)(table.to(), 1, &state, grad.view(), 0, d, 0.1f, 1e-8f, scratch.get());
      close(table, want, "adagrad");
      close(state, 0.25 + squares, 1 + squares, "adagrad state");
      const AdamStep step{0.9f, 0.99f, 0.01f, 2.f, 1e-8f};
      for (int64_t i = 0; i < 3 * d; ++i) {
        const double g = grad.at(0, i % d);
        wide_m[i] = mean.at(i / d, i % d), wide_v[i] = square.at(i / d, i % d);
        want[i] = table.at(i / d, i % d);
        if (i / d != 2) continue;
        wide_m[i] += (g - wide_m[i]) * (1 - double{0.9f});
        wide_v[i] += (g * g - wide_v[i]) * (1 - double{0.99f});
        want[i] -= 0.01f * wide_m[i] / (std::sqrt(wide_v[i]) * 2 + 1e-8f);
      }
      RECENGINE_PICK(adam_row)(table.to(), 2, mean.to(), square.to(), grad.view(), 0, d, step, scratch.get());
      close(table, want, "adam");
      close(mean, wide_m, "adam mean");
      close(square, wide_v, "adam square");
    }
}
