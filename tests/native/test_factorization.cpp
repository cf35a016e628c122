// Factorisation kernels without torch, for the sanitizers: every instruction set this processor has,
// odd sizes, rows without entries, and parts of one task on several threads at once.
//
//   for each set:  g++ -std=c++20 -c -Icsrc -DKERN_NS=<set> <flags> csrc/factorization/kernels_cpu.cpp
//   then:          g++ -std=c++20 -Icsrc tests/native/test_factorization.cpp *.o csrc/common/isa.cpp -pthread
#include <cmath>
#include <cstdio>
#include <random>
#include <thread>
#include <vector>

#include "factorization/kernels.h"

namespace {

using namespace recengine;

int failures = 0;
void expect(bool held, const char* what, long long size) {
  if (held) return;
  std::printf("FAILED: %s (size %lld)\n", what, size);
  ++failures;
}

template <class Work>
void on_two_threads(int64_t n, Work&& work) {
  std::thread other([&] { work(0, n / 2); });
  work(n / 2, n);
  other.join();
}

struct Sparse {
  std::vector<int64_t> indptr{0};
  std::vector<int32_t> columns;

  Sparse(int rows, int n, std::mt19937& random) {
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < n; ++c)
        if (r % 5 && random() % 4 == 0) columns.push_back(c);  // every fifth row is empty
      indptr.push_back(static_cast<int64_t>(columns.size()));
    }
  }
};

std::vector<float> table(int64_t n, std::mt19937& random) {
  std::vector<float> made(n);
  for (float& x : made) x = static_cast<float>(random() % 1000) / 1000.f - 0.5f;
  return made;
}

void solves(int64_t d) {
  std::mt19937 random(static_cast<unsigned>(d));
  const int rows = 41, n = 29;
  const Sparse pairs(rows, n, random);
  const std::vector<float> y = table(n * d, random), weights(pairs.columns.size(), 10.f), lambda(rows, 0.5f);
  std::vector<float> gram(d * d), exact(rows * d), close(rows * d);
  RECENGINE_PICK(gram_rows)(y.data(), d, 0, n, gram.data());
  for (auto [steps, x] : {std::pair<int64_t, std::vector<float>*>{0, &exact}, {200, &close}}) {
    const SolveArgs args{y.data(),       gram.data(),   pairs.indptr.data(), pairs.columns.data(),
                         weights.data(), lambda.data(), x->data(),           d, steps};
    on_two_threads(rows, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(solve_scratch(d));
      RECENGINE_PICK(solve_rows)(args, begin, end, scratch.data());
    });
  }
  float apart = 0;
  for (size_t k = 0; k < exact.size(); ++k) apart = std::max(apart, std::fabs(exact[k] - close[k]));
  expect(apart < 5e-3f, "conjugate gradient reaches Cholesky's solution", d);
  expect(exact[0] == 0 && close[0] == 0, "an empty row is zero", d);
}

// Two strata that share neither users nor items, at once: the thread sanitizer must find nothing.
void trains(int64_t d) {
  std::mt19937 random(static_cast<unsigned>(d));
  const int rows = 40, n = 30;
  const Sparse pairs(rows, n, random);
  std::vector<float> users = table(rows * d, random), items = table(n * d, random), bias(n);
  std::vector<int32_t> candidates(n);
  for (int i = 0; i < n; ++i) candidates[i] = i;
  std::vector<Pair> strata[2];
  for (int u = 0; u < rows; ++u)
    for (int64_t t = pairs.indptr[u]; t < pairs.indptr[u + 1]; ++t)
      if ((u < rows / 2) == (pairs.columns[t] < n / 2)) strata[u >= rows / 2].push_back({u, pairs.columns[t]});
  const std::vector<float> before = users;
  on_two_threads(2, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      RECENGINE_PICK(train_stratum)({strata[s].data(), static_cast<int64_t>(strata[s].size()), candidates.data() + s * (n / 2),
                                     n / 2, pairs.indptr.data(), pairs.columns.data(), users.data(), items.data(), bias.data(),
                                     d, 7u + static_cast<uint64_t>(s), 0.1f, 0.01f, 0.01f, 0.01f});
  });
  bool finite = true;
  for (float x : users) finite = finite && std::isfinite(x);
  expect(finite, "vectors stay finite", d);
  expect(users != before, "training moves the vectors", d);
  for (int64_t k = 0; k < d; ++k) expect(users[k] == before[k], "a user without pairs stays", d);
}

template <class T>
struct Steps {
  bool (*pivot)(const SweepArgs<T>&);
  void (*panel)(const SweepArgs<T>&, int64_t, int64_t);
  void (*update)(const SweepArgs<T>&, int64_t, int64_t);
  void (*store)(const SweepArgs<T>&, int64_t, int64_t);
  int64_t columns;
};

template <class T>
void inverts(int64_t n, const Steps<T>& steps, T tolerance) {
  std::vector<T> a(n * n), given;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) a[i * n + j] = (i == j ? T(3) : T(0)) + 1 / T(1 + std::abs(i - j));
  given = a;
  const int64_t wide = (n + steps.columns - 1) / steps.columns * steps.columns;
  std::vector<T> pivot(sweep_block * sweep_block), packed(wide * sweep_block), product(n * sweep_block);
  for (int64_t k0 = 0; k0 < n; k0 += sweep_block) {
    const SweepArgs<T> args{a.data(), n, k0, std::min(n, k0 + sweep_block), pivot.data(), packed.data(), product.data()};
    expect(steps.pivot(args), "the pivot is positive definite", n);
    on_two_threads(n, [&](int64_t begin, int64_t end) { steps.panel(args, begin, end); });
    on_two_threads(n, [&](int64_t begin, int64_t end) { steps.update(args, begin, end); });
    on_two_threads(n, [&](int64_t begin, int64_t end) { steps.store(args, begin, end); });
  }
  T worst = 0;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      T sum = 0;
      for (int64_t k = 0; k < n; ++k) sum -= given[i * n + k] * (k >= j ? a[k * n + j] : a[j * n + k]);
      worst = std::max(worst, std::abs(sum - T(i == j)));
    }
  expect(worst < tolerance, "A times its inverse is the identity", n);
}

}  // namespace

int main() {
  for (int64_t d : {16, 32, 48, 64, 128, 160}) solves(d), trains(d);
  const Steps<float> single{RECENGINE_PICK(sweep_pivot_f32), RECENGINE_PICK(sweep_panel_f32), RECENGINE_PICK(sweep_update_f32),
                            RECENGINE_PICK(sweep_store_f32), RECENGINE_PICK(sweep_columns_f32)()};
  const Steps<double> twice{RECENGINE_PICK(sweep_pivot_f64), RECENGINE_PICK(sweep_panel_f64), RECENGINE_PICK(sweep_update_f64),
                            RECENGINE_PICK(sweep_store_f64), RECENGINE_PICK(sweep_columns_f64)()};
  for (int64_t n : {1, 7, 119, 120, 121, 245}) inverts(n, single, 1e-4f), inverts(n, twice, 1e-11);
  std::printf("factorization (%s): %s\n", isa_name(), failures ? "FAILED" : "ok");
  return failures != 0;
}
