// Recourse kernels without torch, for the sanitizers: every instruction set this processor has, odd sizes,
// bounds that bind, people without an answer, and parts of one batch on two threads.
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "recourse/kernels.h"

namespace {

using namespace recengine;

int failures = 0;
void expect(bool held, const char* what, long long size) {
  if (held) return;
  std::printf("FAILED: %s (size %lld)\n", what, size);
  ++failures;
}

void projects(int64_t d) {
  std::mt19937 random(static_cast<unsigned>(d));
  std::normal_distribution<double> normal;
  const int64_t n = 37, m = d + 1;
  std::vector<double> P(m * m), theta(m), weights(d, 1.0), x0(n * d), low(n * d), high(n * d);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j <= i; ++j) P[i * m + j] = P[j * m + i] = i == j ? 1.0 + 0.1 * static_cast<double>(i) : 0.05 / static_cast<double>(m);
  for (double& value : theta) value = normal(random);
  for (int64_t t = 0; t < n * d; ++t) {
    x0[t] = 2 * normal(random);
    const double width = t % 5 == 0 ? 0.0 : t % 7 == 0 ? std::numeric_limits<double>::infinity() : 1.0;
    low[t] = x0[t] - width, high[t] = x0[t] + width;
  }
  std::vector<double> start(n * d, std::numeric_limits<double>::quiet_NaN()), x(n * d), bound(n);
  for (int64_t row = 0; row < n; row += 2)  // every second one has a place to begin from
    for (int64_t j = 0; j < d; ++j) start[row * d + j] = x0[row * d + j] + normal(random);
  std::vector<int64_t> status(n);
  const ConeArgs args{x0.data(), start.data(), theta.data(), P.data(), weights.data(), low.data(), high.data(),
                      0.3, 0.0, d, 80, x.data(), bound.data(), status.data()};
  const auto work = [&](int64_t begin, int64_t end) {
    std::vector<double> scratch(cone_scratch(d));
    RECENGINE_PICK(cone_rows)(args, begin, end, scratch.data());
  };
  std::thread other([&] { work(0, n / 2); });
  work(n / 2, n);
  other.join();
  for (int64_t row = 0; row < n; ++row) {
    bool bounded = true;  // with an endless side no single model need reject everything: undecided is allowed
    for (int64_t j = 0; j < d; ++j) bounded = bounded && std::isfinite(low[row * d + j]);
    expect(!bounded || status[row] != cone_undecided, "everybody within bounds is decided", d);
    if (status[row] != cone_solved) continue;
    double worst = theta[d], spread = 0, cost = 0;
    for (int64_t i = 0; i < m; ++i) {
      const double hi = i < d ? x[row * d + i] : 1.0;
      if (i < d) worst += theta[i] * hi, cost += (hi - x0[row * d + i]) * (hi - x0[row * d + i]);
      for (int64_t j = 0; j < m; ++j) spread += hi * P[i * m + j] * (j < d ? x[row * d + j] : 1.0);
    }
    expect(worst - 0.3 * std::sqrt(spread) >= -1e-10, "the worst model accepts", d);
    expect(bound[row] <= cost * (1 + 1e-9) && bound[row] >= cost * (1 - 1e-6) - 1e-9, "the bound is the cost", d);
  }
}

void roots(int64_t k) {
  std::mt19937 random(static_cast<unsigned>(k));
  std::normal_distribution<double> normal;
  const int64_t n = 23;
  std::vector<double> z0(n * k), m(n * k), mu(k), slope(k), m0(n), level(n), z(n * k);
  for (auto* part : {&z0, &m, &slope, &m0, &level})
    for (double& value : *part) value = normal(random);
  for (int64_t i = 0; i < k; ++i) mu[i] = i + 1 == k ? 0.8 : -1.0 / static_cast<double>(i + 1);
  const QuadricArgs args{z0.data(), mu.data(), m.data(), m0.data(), slope.data(), level.data(), z.data(), k, false};
  std::vector<double> scratch(quadric_scratch(k));
  RECENGINE_PICK(quadric_rows)(args, 0, n, scratch.data());
  int64_t found = 0;
  for (int64_t row = 0; row < n; ++row) {
    if (std::isnan(z[row * k])) continue;
    double q = m0[row], scale = std::fabs(m0[row]), side = level[row];
    for (int64_t i = 0; i < k; ++i) {
      const double v = z[row * k + i];
      q += mu[i] * v * v + 2 * m[row * k + i] * v, scale += std::fabs(mu[i]) * v * v + 2 * std::fabs(m[row * k + i] * v);
      side += slope[i] * v;
    }
    ++found;
    expect(std::fabs(q) <= 1e-6 * scale && side > 0, "a root on the right side", k);
  }
  expect(found > 0, "some have one", k);
}

}  // namespace

int main() {
  for (const int64_t d : {1, 2, 3, 7, 8, 9, 16, 31, 67}) projects(d), roots(d);
  std::printf(failures ? "%d failures\n" : "ok (%d failures)\n", failures);
  return failures != 0;
}
