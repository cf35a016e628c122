#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "common/checks.h"
#include "recourse/kernels.h"

namespace recengine {
namespace {

using torch::stable::parallel_for;

void check(const char* op, const char* name, const Tensor& t, std::initializer_list<int64_t> sizes) {
  check_dim(op, name, t, static_cast<int64_t>(sizes.size()));
  check_dtype(op, name, t, ScalarType::Double, "float64");
  int64_t axis = 0;
  for (const int64_t size : sizes) check_size(op, name, t, axis++, size);
  RECENGINE_CHECK(t.is_contiguous(), op, ": ", name, " must be contiguous");
}

// people in pieces, so that hard ones do not all fall to one thread
template <class Work>
void over_people(int64_t n, Work&& work) {
  const int64_t piece = 16, pieces = (n + piece - 1) / piece;
  parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) { work(begin * piece, std::min(n, end * piece)); });
}

Tensor quadric_nearest(const Tensor& z0, const Tensor& mu, const Tensor& m, const Tensor& m0, const Tensor& slope,
                       const Tensor& level) {
  const char* op = "quadric_nearest";
  check_dim(op, "z0", z0, 2);
  const int64_t n = z0.size(0), k = z0.size(1);
  RECENGINE_CHECK(k > 0, op, ": z0 has no columns");
  check(op, "z0", z0, {n, k});
  check(op, "mu", mu, {k});
  check_dim(op, "m", m, 2);
  const bool shared = n != 1 && m.size(0) == 1;
  const int64_t rows = shared ? 1 : n;
  check(op, "m", m, {rows, k});
  check(op, "m0", m0, {rows});
  check(op, "slope", slope, {k});
  check(op, "level", level, {rows});
  Tensor z = torch::stable::new_empty(z0, {n, k});
  const QuadricArgs args{z0.const_data_ptr<double>(),    mu.const_data_ptr<double>(),    m.const_data_ptr<double>(),
                         m0.const_data_ptr<double>(),    slope.const_data_ptr<double>(), level.const_data_ptr<double>(),
                         z.mutable_data_ptr<double>(),   k,                              shared};
  const auto kernel = RECENGINE_PICK(quadric_rows);
  over_people(n, [&](int64_t begin, int64_t end) {
    std::vector<double> scratch(quadric_scratch(k));
    kernel(args, begin, end, scratch.data());
  });
  return z;
}

std::tuple<Tensor, Tensor, Tensor> cone_nearest(const Tensor& points, const Tensor& start, const Tensor& theta,
                                                const Tensor& P, double radius, const Tensor& weights,
                                                const Tensor& low, const Tensor& high, double tau,
                                                int64_t iterations) {
  const char* op = "cone_nearest";
  check_dim(op, "points", points, 2);
  const int64_t n = points.size(0), d = points.size(1);
  RECENGINE_CHECK(d > 0, op, ": points have no columns");
  check(op, "points", points, {n, d});
  check(op, "start", start, {n, d});
  check(op, "theta", theta, {d + 1});
  check(op, "P", P, {d + 1, d + 1});
  check(op, "weights", weights, {d});
  check(op, "low", low, {n, d});
  check(op, "high", high, {n, d});
  RECENGINE_CHECK(radius >= 0, op, ": radius is ", radius, ", expected zero or more");
  const double *w = weights.const_data_ptr<double>(), *l = low.const_data_ptr<double>(),
               *u = high.const_data_ptr<double>();
  for (int64_t j = 0; j < d; ++j) RECENGINE_CHECK(w[j] > 0, op, ": weights[", j, "] is ", w[j], ", expected more than zero");
  for (int64_t j = 0; j < n * d; ++j)
    RECENGINE_CHECK(l[j] <= u[j], op, ": low is above high for point ", j / d, ", column ", j % d);
  Tensor x = torch::stable::new_empty(points, {n, d}), bound = torch::stable::new_empty(points, {n});
  Tensor status = torch::stable::new_empty(points, {n}, ScalarType::Long);
  const ConeArgs args{points.const_data_ptr<double>(),
                      start.const_data_ptr<double>(),
                      theta.const_data_ptr<double>(),
                      P.const_data_ptr<double>(),
                      w, l, u, radius, tau, d, iterations,
                      x.mutable_data_ptr<double>(),
                      bound.mutable_data_ptr<double>(),
                      status.mutable_data_ptr<int64_t>()};
  const auto kernel = RECENGINE_PICK(cone_rows);
  over_people(n, [&](int64_t begin, int64_t end) {
    std::vector<double> scratch(cone_scratch(d));
    kernel(args, begin, end, scratch.data());
  });
  return {x, bound, status};
}

}  // namespace
}  // namespace recengine

STABLE_TORCH_LIBRARY_IMPL(recengine, CPU, m) {
  m.impl("quadric_nearest", TORCH_BOX(&recengine::quadric_nearest));
  m.impl("cone_nearest", TORCH_BOX(&recengine::cone_nearest));
}
