// One person's secular equation: z_i(nu) = (z0_i + 2 nu m_i)/(1 - 2 nu mu_i), q(z(nu)) = 0.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "recourse/kernels.h"
#include "recourse/lanes.h"

namespace KERN_NS {

struct Quadric {
  const double *z0, *mu, *m, *slope;  // [k], padded with zeros to whole vectors, zero at ``top`` too
  double m0, level;
  int64_t k;
  struct Top {
    double z0, mu, m, slope;
    double at(double nu) const { return (z0 + 2 * nu * m) / (1 - 2 * nu * mu); }
  } top;  // the one coordinate with mu > 0, else zeros

  // q(z(nu)); the side of the nappe too when asked.
  double at(double nu, double* side = nullptr) const {
    vd q{}, s{};
    for (int64_t i = 0; i < k; i += lanes) {
      const vd pull = loaded(m + i), curve = loaded(mu + i);
      const vd z = (loaded(z0 + i) + 2 * nu * pull) / (1 - 2 * nu * curve);
      q += (z * curve + 2 * pull) * z;
      s += z * loaded(slope + i);
    }
    const double z = top.at(nu);
    if (side) *side = level + total(s) + z * top.slope;
    return m0 + total(q) + (z * top.mu + 2 * top.m) * z;
  }
  // -q without the terms of ``top``, and its derivative by nu.
  double beside(double nu, double* rate) const {
    vd q{}, r{};
    for (int64_t i = 0; i < k; i += lanes) {
      const vd curve = loaded(mu + i), pull = loaded(m + i);
      const vd part = 1 / (1 - 2 * nu * curve), z = (loaded(z0 + i) + 2 * nu * pull) * part, push = pull + z * curve;
      q += (push + pull) * z;
      r += push * push * part;
    }
    *rate = -4 * total(r);
    return -total(q) - m0;
  }
};

// The root of q before (sign 1) or beyond (-1) the pole 1/(2 mu_top), mu_top > 0 the only positive one, by
// Newton: with R = q_top - q, q_top = (far/(1 - 2 nu mu_top))^2, it solves the almost linear
// sign (1 - 2 nu mu_top) = far/sqrt(R). R falls with nu: before the pole there is no root unless R > far^2 at
// nu = 0, and -1 is returned. NaN where it does not settle.
inline double fast_root(const Quadric& quadric, double sign) {
  constexpr double none = std::numeric_limits<double>::quiet_NaN();
  const double mu = quadric.top.mu, centre = -quadric.top.m / mu;
  const double far = std::sqrt(mu) * std::fabs(quadric.top.z0 - centre), least = sign > 0 ? 0.0 : 0.5 / mu;
  const double most = sign > 0 ? 0.5 / mu : std::numeric_limits<double>::infinity();
  double nu = sign > 0 ? 0.0 : 1 / mu;
  for (int step = 0; step < 12; ++step) {
    double rate;
    const double R = quadric.beside(nu, &rate) + mu * centre * centre;
    if (step == 0 && sign > 0 && R <= far * far) return -1;
    if (!(R > 0)) return none;
    const double reach = far / std::sqrt(R);
    const double next = nu - (sign * (1 - 2 * nu * mu) - reach) / (-2 * sign * mu + 0.5 * reach * rate / R);
    if (!(next >= least && next <= most)) return none;
    const double moved = std::fabs(next - nu);
    nu = next;
    if (moved <= 1e-9 * nu) return nu;  // the error is about its square
  }
  return none;
}

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
  const int64_t wide = recengine::padded(a.k), last = a.k - 1;
  double *z0 = scratch, *m = z0 + wide, *mu = m + wide, *slope = mu + wide;
  std::fill(scratch, scratch + 4 * wide, 0.0);
  std::copy(a.mu, a.mu + a.k, mu);
  std::copy(a.slope, a.slope + a.k, slope);
  const bool two = mu[last] > 0;
  const double pole = two ? 1 / (2 * mu[last]) : 1.0;
  Quadric::Top top{0, mu[last], 0, slope[last]};
  if (two) mu[last] = slope[last] = 0;
  else top = {};
  for (int64_t row = begin; row < end; ++row) {
    std::copy(a.z0 + row * a.k, a.z0 + (row + 1) * a.k, z0);
    const int64_t own = a.shared ? 0 : row;
    std::copy(a.m + own * a.k, a.m + (own + 1) * a.k, m);
    if (two) top.z0 = z0[last], top.m = m[last], z0[last] = m[last] = 0;
    const Quadric quadric{z0, mu, m, slope, a.m0[own], a.level[own], wide, top};
    double best = std::numeric_limits<double>::quiet_NaN();
    const auto consider = [&](double nu) {
      if (!(nu >= 0)) return;
      double side;
      quadric.at(nu, &side);
      if (side > 0) best = nu;
    };
    if (two) {
      // before the pole the point is the nearest of the whole quadric
      const auto either = [](double fast, auto&& slow) { return std::isnan(fast) ? slow() : fast; };
      consider(
          either(fast_root(quadric, 1), [&] { return pole * root(quadric, [=](double t) { return pole * t; }); }));
      if (std::isnan(best))
        consider(
            either(fast_root(quadric, -1), [&] { return pole / root(quadric, [=](double t) { return pole / t; }); }));
    } else {  // the inside of an ellipsoid: nu runs to infinity
      const double t = root(quadric, [](double t) { return t / (1 - t); });
      consider(t / (1 - t));
    }
    double* z = a.z + row * a.k;
    for (int64_t i = 0; i < a.k; ++i) z[i] = (z0[i] + 2 * best * m[i]) / (1 - 2 * best * mu[i]);
    if (two) z[last] = top.at(best);
  }
}

}  // namespace KERN_NS
