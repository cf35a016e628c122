// One person's secular equation: z_i(nu) = (z0_i + 2 nu m_i)/(1 - 2 nu mu_i), q(z(nu)) = 0.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "recourse/kernels.h"

namespace KERN_NS {

struct Quadric {
  const double *z0, *mu, *m, *slope;  // [k], padded with zeros to whole eights
  double m0, level;
  int64_t k;

  // q(z(nu)); the side of the nappe too when asked.
  double at(double nu, double* side = nullptr) const {
    double q[8] = {}, s[8] = {};
    for (int64_t i = 0; i < k; i += 8)
      for (int64_t j = 0; j < 8; ++j) {
        const double z = (z0[i + j] + 2 * nu * m[i + j]) / (1 - 2 * nu * mu[i + j]);
        q[j] += (z * mu[i + j] + 2 * m[i + j]) * z;
        s[j] += z * slope[i + j];
      }
    if (side) *side = level + (((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7])));
    return m0 + (((q[0] + q[4]) + (q[1] + q[5])) + ((q[2] + q[6]) + (q[3] + q[7])));
  }
  double away(double nu) const {
    double sum = 0;
    for (int64_t i = 0; i < k; ++i) {
      const double move = (z0[i] + 2 * nu * m[i]) / (1 - 2 * nu * mu[i]) - z0[i];
      sum += move * move;
    }
    return sum;
  }
};

// Root of q(nu_of(t)) for t between the edges by Chandrupatla's rule (inverse quadratic interpolation where
// it is safe, else halving); NaN without a change of sign.
template <class NuOf>
inline double root(const Quadric& quadric, NuOf&& nu_of) {
  constexpr double edge = 1e-13;
  double a = 1 - edge, b = edge;
  double fa = quadric.at(nu_of(a)), fb = quadric.at(nu_of(b));
  if (!(fa * fb <= 0 || std::signbit(fa) != std::signbit(fb))) return std::numeric_limits<double>::quiet_NaN();
  double c = a, fc = fa, part = 0.5;
  for (int step = 0; step < 120; ++step) {
    const double t = a + part * (b - a), ft = quadric.at(nu_of(t));
    if (std::signbit(ft) == std::signbit(fa)) {
      c = a, fc = fa;
    } else {
      c = b, b = a, fc = fb, fb = fa;
    }
    a = t, fa = ft;
    const double best = std::fabs(fa) < std::fabs(fb) ? a : b;
    const double least = 4e-16 * best / std::fabs(b - c);
    if (least > 0.5 || fa == 0) return best;
    const double xi = (a - b) / (c - b), phi = (fa - fb) / (fc - fb);
    part = phi * phi < xi && (1 - phi) * (1 - phi) < 1 - xi
               ? fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
               : 0.5;
    part = std::min(1 - least, std::max(least, part));
  }
  return a;
}

void quadric_rows(const recengine::QuadricArgs& a, int64_t begin, int64_t end, double* scratch) {
  const int64_t wide = recengine::padded(a.k);
  double *z0 = scratch, *m = z0 + wide, *mu = m + wide, *slope = mu + wide;
  std::fill(scratch, scratch + 4 * wide, 0.0);
  std::copy(a.mu, a.mu + a.k, mu);
  std::copy(a.slope, a.slope + a.k, slope);
  const double top = a.mu[a.k - 1], pole = top > 0 ? 1 / (2 * top) : 1.0;
  for (int64_t row = begin; row < end; ++row) {
    std::copy(a.z0 + row * a.k, a.z0 + (row + 1) * a.k, z0);
    std::copy(a.m + row * a.k, a.m + (row + 1) * a.k, m);
    const Quadric quadric{z0, mu, m, slope, a.m0[row], a.level[row], wide};
    double best = std::numeric_limits<double>::quiet_NaN(), least = std::numeric_limits<double>::infinity();
    const auto consider = [&](double nu) {
      if (std::isnan(nu)) return;
      double side;
      quadric.at(nu, &side);
      if (!(side > 0)) return;
      if (const double far = quadric.away(nu); far < least) best = nu, least = far;
    };
    if (top > 0) {  // before and beyond the pole
      consider(pole * root(quadric, [=](double t) { return pole * t; }));
      consider(pole / root(quadric, [=](double t) { return pole / t; }));
    } else {  // the inside of an ellipsoid: nu runs to infinity
      const double t = root(quadric, [](double t) { return t / (1 - t); });
      consider(t / (1 - t));
    }
    for (int64_t i = 0; i < a.k; ++i)
      a.z[row * a.k + i] = (z0[i] + 2 * best * m[i]) / (1 - 2 * best * mu[i]);
  }
}

}  // namespace KERN_NS
