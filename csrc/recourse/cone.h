// One person's projection on a second-order cone within bounds: Newton on the optimality conditions over
// the free coordinates, together with the multiplier; who leaves the bounds is held there, and coordinates
// held with a multiplier of the wrong sign are let go. Matrices are factored in float, residuals and the
// certificate are in double; whoever does not settle that way is done again in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/vec.h"
#include "recourse/factor.h"
#include "recourse/kernels.h"

namespace KERN_NS {

// What all people share. Rows of P are padded with zeros, twice (2 w) with 2.
struct ConeShared {
  const double *P, *theta, *twice;
  const float* rough;  // P in float
};

class ConePerson {
 public:
  ConePerson(const recengine::ConeArgs& a, const ConeShared& shared, int64_t row, double* scratch)
      : a_(a),
        shared_(shared),
        d_(a.d),
        m_(a.d + 1),
        stride_(recengine::padded(m_)),
        exact_(scratch, d_),
        rough_(reinterpret_cast<float*>(scratch + recengine::factor_scratch(d_)), d_) {
    const int64_t wide = recengine::padded16(m_);
    double* next = scratch + recengine::factor_scratch(d_) * 3 / 2;
    for (double** part : {&x0_, &low_, &high_, &h_, &Ph_, &slope_, &rho_, &move_, &base_}) *part = next, next += wide;
    held_ = reinterpret_cast<int64_t*>(next), next += wide;
    free_.at = reinterpret_cast<int32_t*>(next), next += wide;
    free_.earlier = reinterpret_cast<int32_t*>(next), next += wide;
    free_.bits = reinterpret_cast<uint8_t*>(next);
    std::fill(held_, held_ + wide, -1);
    const double* given[] = {a.x0 + row * d_, a.low + row * d_, a.high + row * d_};
    double* into[] = {x0_, low_, high_};
    for (int side = 0; side < 3; ++side) {
      std::copy(given[side], given[side] + d_, into[side]);
      std::fill(into[side] + d_, into[side] + wide, 0.0);
      into[side][d_] = 1.0;  // the constant: never moves
    }
  }

  int64_t solve(const double* start, double* x, double* bound) {
    each([&](int64_t j) { stored(h_ + j, within(j, loaded(x0_ + j))); });
    look();
    if (worst_ >= a_.tau) return finish(0.0, x, bound);
    if (rejected_everywhere()) return recengine::cone_infeasible;
    bool known = true;
    for (int64_t j = 0; j < d_; ++j) known &= std::isfinite(start[j]);
    int64_t state = recengine::cone_undecided;
    if (known) {
      if (begin(start)) {  // no bound binds: it is the answer already, but for rounding
        state = finish(lambda_, x, bound);
        if (state == recengine::cone_solved && cost() - *bound <= 1e-10 * cost()) return state;
        begin(start);
      }
      state = eager();
      if (state == recengine::cone_undecided) begin(start), look(), state = patient();
    }
    if (state == recengine::cone_undecided) {
      begin(known ? start : nullptr), look();
      state = by_multiplier();
    }
    return state == recengine::cone_solved ? finish(lambda_, x, bound) : state;
  }

 private:
  template <class Work>
  RE_INLINE void each(Work&& work) const {
    const int64_t end = stride_;
    for (int64_t j = 0; j < end; j += lanes) work(j);
  }
  vd within(int64_t j, vd x) const {
    const vd low = loaded(low_ + j), high = loaded(high_ + j);
    x = x < low ? low : x;
    return x > high ? high : x;
  }
  vl held(int64_t j) const { return *reinterpret_cast<const vl_u*>(held_ + j); }
  void hold(int64_t j, vl which) { *reinterpret_cast<vl_u*>(held_ + j) = which; }
  static bool any(vl which) { return total(which != 0 ? vd{} + 1.0 : vd{}) > 0; }

  // P h, some vectors of the result at a time, in registers.
  template <int count, class T>
  void times(const T* P, int64_t stride, const T* h, double* out) const {
    typedef typename Wide<T>::type V;
    typedef V V_u __attribute__((aligned(4), may_alias));
    constexpr int64_t width = sizeof(V) / sizeof(T);
    const auto get = [](const T* p) { return *reinterpret_cast<const V_u*>(p); };
    V even[count] = {}, odd[count] = {};
    const int64_t m = m_;
    int64_t k = 0;
    for (; k + 2 <= m; k += 2, P += 2 * stride)
      for (int r = 0; r < count; ++r) {
        even[r] += h[k] * get(P + r * width);
        odd[r] += h[k + 1] * get(P + stride + r * width);
      }
    if (k < m)
      for (int r = 0; r < count; ++r) even[r] += h[k] * get(P + r * width);
    T made[count * width];
    for (int r = 0; r < count; ++r) *reinterpret_cast<V_u*>(made + r * width) = even[r] + odd[r];
    for (int64_t i = 0; i < count * width; ++i) out[i] = made[i];
  }
  template <class T>
  void multiply(const T* P, int64_t stride, const T* h) {
    constexpr int64_t width = sizeof(typename Wide<T>::type) / sizeof(T);
    double* out = Ph_;
    for (int64_t left = stride / width; left > 0;) {
      const int64_t count = left % 4 == 1 && left >= 5 ? 5 : std::min<int64_t>(4, left);
      if (count == 5) times<5>(P, stride, h, out);
      else if (count == 4) times<4>(P, stride, h, out);
      else if (count == 3) times<3>(P, stride, h, out);
      else if (count == 2) times<2>(P, stride, h, out);
      else times<1>(P, stride, h, out);
      P += count * width, out += count * width, left -= count;
    }
  }

  // Worst model and worst logit at the current point; ``roughly``: to the precision of float.
  void look(bool roughly = false) {
    if (roughly) {
      float* const h = reinterpret_cast<float*>(move_);
      for (int64_t k = 0; k < m_; ++k) h[k] = static_cast<float>(h_[k]);
      multiply(shared_.rough, recengine::padded16(m_), h);
    } else {
      multiply(shared_.P, stride_, h_);
    }
    vd along{}, size{};
    each([&](int64_t i) {
      along += loaded(shared_.theta + i) * loaded(h_ + i);
      size += loaded(h_ + i) * loaded(Ph_ + i);
    });
    spread_ = std::sqrt(std::max(total(size), 1e-300));
    bend_ = a_.radius / spread_;
    worst_ = total(along) - a_.radius * spread_;
    each([&](int64_t i) { stored(slope_ + i, loaded(shared_.theta + i) - bend_ * loaded(Ph_ + i)); });
  }

  // Whether the worst model at this point rejects every point within the bounds: a proof of infeasibility.
  bool rejected_everywhere() const {
    vd sum{}, size{};
    each([&](int64_t j) {
      const vd slope = loaded(slope_ + j), at = slope > 0 ? loaded(high_ + j) : loaded(low_ + j);
      const vd term = slope == 0 ? vd{} : slope * at;
      sum += term, size += term < 0 ? -term : term;
    });
    return total(sum) < a_.tau - 1e-12 * total(size);
  }

  // From ``start`` (null: from where we are): the multiplier, and who is held. Whether it lies within the bounds;
  // where not, the last look was a rough one.
  bool begin(const double* start) {
    if (start) std::copy(start, start + d_, h_);
    look(true);
    vd top{}, below{}, beyond{};
    each([&](int64_t j) {
      const vd x = loaded(h_ + j), low = loaded(low_ + j), high = loaded(high_ + j), slope = loaded(slope_ + j);
      const vl moves = low < high;
      top += moves ? loaded(shared_.twice + j) * (x - loaded(x0_ + j)) * slope : vd{};
      below += moves ? slope * slope : vd{};
      const vl out = (x < low) | (x > high);
      beyond += out ? vd{} + 1.0 : vd{};
      hold(j, ~moves | out);
      stored(h_ + j, within(j, x));
    });
    lambda_ = std::max(total(top) / std::max(total(below), 1e-300), 0.0);
    const bool inside = total(beyond) == 0;
    look(!inside);
    if (!inside) raise();
    return inside;
  }

  // The multiplier at which the nearest point within the bounds meets the present worst model.
  void raise() {
    for (int round = 0; round < 6; ++round) {
      vd reach{}, pull{};
      each([&](int64_t j) {
        const vd slope = loaded(slope_ + j), twice = loaded(shared_.twice + j);
        const vd x = loaded(x0_ + j) + lambda_ * slope / twice, at = within(j, x);
        reach += slope * at;
        pull += (x == at) & (loaded(low_ + j) < loaded(high_ + j)) ? slope * slope / twice : vd{};
      });
      const double step = (a_.tau - total(reach)) / std::max(total(pull), 1e-300);
      lambda_ = std::clamp(lambda_ + step, 0.5 * lambda_, 4 * lambda_);
      if (std::fabs(step) < 0.02 * lambda_) break;
    }
  }

  // One Newton step over the free coordinates: sets move_, lambda_ and change_, the latter's. Without the
  // constraint the multiplier stays what it is. ``again``: with the matrix of the step before, whose free
  // coordinates were the same. False where nothing is free or the system cannot be solved.
  //
  // The Hessian of the Lagrangian is B - t q q', B = curve P_FF + diag(2 w), q = (P h)_F, t = curve / h'Ph:
  // B is factored, the rest is added by Sherman and Morrison, with the present q even where B is of before.
  template <class T>
  bool newton(Factor<T>& factor, const T* P, int64_t stride, bool constrained, bool again = false) {
    if (!again) free_.list(held_, d_);
    if (free_.count == 0) return false;
    each([&](int64_t j) {
      stored(rho_ + j, lambda_ * loaded(slope_ + j) - loaded(shared_.twice + j) * (loaded(h_ + j) - loaded(x0_ + j)));
    });
    const double* const right[] = {slope_, rho_, Ph_};
    if (again) {
      factor.carry(free_, right);
    } else {
      curve_ = lambda_ * bend_;
      if (!factor.make(P, stride, free_, curve_, shared_.twice, right)) return false;
    }
    const auto [product] = factor.products();
    const double tilt = curve_ / (spread_ * spread_), rest = 1 - tilt * product[2][2];
    if (!(rest > 0)) return false;
    const double uq = product[0][2], vq = product[1][2], back = tilt / rest;
    const double uu = product[0][0] + back * uq * uq, uv = product[0][1] + back * uq * vq;
    const double after = constrained ? std::max(lambda_ + (a_.tau - worst_ - uv) / uu, 0.0) : lambda_;
    change_ = after - lambda_;
    const T* found = factor.solve({change_, 1.0, back * (vq + change_ * uq)});
    each([&](int64_t j) { stored(move_ + j, vd{}); });
    const int32_t* const at = free_.at;
    for (int64_t i = 0, n = free_.count; i < n; ++i) move_[at[i]] = found[i];
    lambda_ = after;
    return true;
  }
  bool newton(bool constrained) { return newton(exact_, shared_.P, stride_, constrained); }

  static double largest(vd v) {
    double most = v[0];
    for (int64_t lane = 1; lane < lanes; ++lane) most = std::max(most, static_cast<double>(v[lane]));
    return most;
  }

  // Makes the move, and sets step_, the largest relative change. Who leaves the bounds goes back and is held
  // there; whether there were any.
  bool advance() {
    vd moved{}, reach{};
    vl out{};
    each([&](int64_t j) {
      const vd move = loaded(move_ + j), x = loaded(h_ + j) + move, inside = within(j, x);
      const vl beyond = x != inside;
      const vd far = move < 0 ? -move : move, size = x < 0 ? -x : x;
      moved = far > moved ? far : moved, reach = size > reach ? size : reach;
      stored(h_ + j, inside);
      hold(j, held(j) | beyond);
      out |= beyond;
    });
    step_ = std::max(largest(moved) / (1 + largest(reach)), 1e-2 * std::fabs(change_) / (1 + lambda_));
    return any(out);
  }

  // Held at a bound against the gradient.
  vl wrong(int64_t j) const {
    const vd x = loaded(h_ + j), low = loaded(low_ + j);
    const vd gradient = loaded(shared_.twice + j) * (x - loaded(x0_ + j)) - lambda_ * loaded(slope_ + j);
    const vl against = ((x <= low) & (gradient < -1e-9)) | ((x > low) & (gradient > 1e-9));
    return held(j) & (low < loaded(high_ + j)) & against;
  }
  bool let_go() {
    vl some{};
    each([&](int64_t j) {
      const vl which = wrong(j);
      hold(j, held(j) & ~which);
      some |= which;
    });
    return any(some);
  }

  static constexpr double done = 1e-7;  // Newton squares the error: what is left is far below rounding of costs

  // First everybody out of the bounds is held, then those with the wrong sign are let go.
  int64_t patient() {
    for (int64_t round = 0; round < a_.iterations; ++round) {
      if (!newton(true)) break;
      const bool outside = advance();
      look();
      if (rejected_everywhere()) return recengine::cone_infeasible;
      if (outside || step_ > 1e-3) continue;
      if (!let_go() && step_ < done) return recengine::cone_solved;
    }
    return recengine::cone_undecided;
  }

  // The same with the held coordinates chosen anew after every step: fewer steps where it works at all. While
  // they stay what they were and steps shrink well, the matrix stays, too.
  int64_t eager() {
    bool again = false, sure = false;  // sure: the step was from a place seen in double
    double before = 0;                 // the step before, 0 where the free coordinates were others
    for (int round = 0; round < 16; ++round) {
      if (!newton(rough_, shared_.rough, recengine::padded16(m_), true, again)) break;
      bool changed = advance();
      if (!std::isfinite(step_)) break;
      const bool roughly = changed;
      look(roughly);
      if (!roughly && round > 1 && rejected_everywhere()) return recengine::cone_infeasible;
      if (round > 0) changed |= let_go();
      // an old matrix leaves the share step_ / before of the step to do, a new one about its square
      const double left = again ? step_ * step_ / before : step_ * step_;
      if (sure && !changed && left < 1e-9) return recengine::cone_solved;
      again = !changed && std::fabs(lambda_ * bend_ - curve_) < 0.1 * curve_ && !(again && step_ > 0.2 * before);
      before = changed ? 0 : step_;
      sure = !roughly;
    }
    return recengine::cone_undecided;
  }

  double cost() const {
    vd value{};
    each([&](int64_t j) {
      const vd away = loaded(h_ + j) - loaded(x0_ + j);
      value += 0.5 * loaded(shared_.twice + j) * away * away;
    });
    return total(value);
  }
  double objective() const { return cost() - lambda_ * worst_; }

  // argmin over the box of cost - lambda g for the present lambda: projected Newton with backtracking, which
  // converges from everywhere. True when a proof of infeasibility was met.
  bool settle() {
    for (int round = 0; round < 60; ++round) {
      each([&](int64_t j) {
        const vd x = loaded(h_ + j), low = loaded(low_ + j), high = loaded(high_ + j);
        hold(j, vl{} - 1);
        const vl against = wrong(j);
        hold(j, ~(low < high) | (((x <= low) | (x >= high)) & ~against));
        stored(base_ + j, x);
      });
      const double before = objective();
      if (!newton(false)) return false;
      for (double part = 1;; part /= 2) {
        each([&](int64_t j) { stored(h_ + j, within(j, loaded(base_ + j) + part * loaded(move_ + j))); });
        look();
        if (objective() <= before + 1e-14 * std::fabs(before) || part < 1e-9) break;
      }
      if (rejected_everywhere()) return true;
      double moved = 0, reach = 0;
      for (int64_t j = 0; j < d_; ++j)
        moved = std::max(moved, std::fabs(h_[j] - base_[j])), reach = std::max(reach, std::fabs(h_[j]));
      if (moved < 1e-10 * (1 + reach)) break;
    }
    return false;
  }

  // The worst logit of settle()'s point never falls with lambda: its root is bracketed and closed in on. Slow
  // and sure; as lambda grows the point goes to the largest worst logit, where infeasibility shows.
  int64_t by_multiplier() {
    double low = 0, high = 0, at_low = worst_ - a_.tau, at_high = 0;
    lambda_ = std::max(lambda_, 1e-3);
    for (int step = 0; step < 30 && high == 0; ++step) {
      if (settle()) return recengine::cone_infeasible;
      if (worst_ >= a_.tau) {
        high = lambda_, at_high = worst_ - a_.tau;
      } else {
        low = lambda_, at_low = worst_ - a_.tau;
        lambda_ *= 8;
      }
    }
    if (high == 0) return recengine::cone_undecided;
    for (int step = 0; step < 100 && high - low > 1e-9 * high; ++step) {
      const double line = low - at_low * (high - low) / (at_high - at_low), width = high - low;
      lambda_ = step % 3 == 2 || !(line > low + 1e-3 * width && line < high - 1e-3 * width) ? (low + high) / 2 : line;
      if (settle()) return recengine::cone_infeasible;
      const double now = worst_ - a_.tau;
      if (now >= 0) {
        high = lambda_, at_high = now;
      } else {
        low = lambda_, at_low = now;
      }
      if (std::fabs(now) < 1e-7 * a_.radius * spread_) break;
    }
    return patient();
  }

  // Move inside against rounding, and bound the optimum: for the worst model and any lambda >= 0 the minimum
  // over the box of cost - lambda (model.h - tau) is separable.
  int64_t finish(double lambda, double* x, double* bound) {
    const double slack = lambda > 0 ? 1e-14 * (std::fabs(a_.tau) + a_.radius * spread_) : 0.0;
    for (int attempt = 0; worst_ < a_.tau + slack; ++attempt) {
      if (attempt == 30) return recengine::cone_undecided;
      vd below{};
      each([&](int64_t j) {
        const vd slope = held(j) ? vd{} : loaded(slope_ + j);
        below += slope * slope;
      });
      const double size = (a_.tau + slack - worst_ + slack * static_cast<double>(1 << std::min(attempt, 20))) /
                          std::max(total(below), 1e-300);
      each([&](int64_t j) {
        const vd step = held(j) ? vd{} : size * loaded(slope_ + j);
        stored(h_ + j, within(j, loaded(h_ + j) + step));
      });
      look();
    }
    vd value{};
    each([&](int64_t j) {
      const vd twice = loaded(shared_.twice + j), from = loaded(x0_ + j), pull = lambda * loaded(slope_ + j);
      const vd best = within(j, from + pull / twice), away = best - from;
      value += 0.5 * twice * away * away - pull * best;
    });
    std::copy(h_, h_ + d_, x);
    *bound = std::max(total(value) + lambda * a_.tau, 0.0);
    return recengine::cone_solved;
  }

  typedef vl vl_u __attribute__((aligned(8), may_alias));

  const recengine::ConeArgs& a_;
  const ConeShared& shared_;
  const int64_t d_, m_, stride_;
  Factor<double> exact_;
  Factor<float> rough_;
  double *x0_, *low_, *high_, *h_, *Ph_, *slope_, *rho_, *move_, *base_;
  int64_t* held_;
  Free free_{};
  double spread_ = 1, bend_ = 0, worst_ = 0, lambda_ = 0, step_ = 0, change_ = 0, curve_ = 0;
};

void cone_rows(const recengine::ConeArgs& a, int64_t begin, int64_t end, double* scratch) {
  const int64_t m = a.d + 1, wide = recengine::padded(m), wider = recengine::padded16(m);
  double* P = reinterpret_cast<double*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  float* rough = reinterpret_cast<float*>(P + m * wide);
  double *theta = reinterpret_cast<double*>(rough + m * wider), *twice = theta + wider;
  scratch = twice + wider;
  for (int64_t k = 0; k < m; ++k) {
    for (int64_t j = 0; j < wide; ++j) P[k * wide + j] = j < m ? a.P[k * m + j] : 0.0;
    for (int64_t j = 0; j < wider; ++j) rough[k * wider + j] = j < m ? static_cast<float>(a.P[k * m + j]) : 0.0f;
  }
  for (int64_t j = 0; j < wider; ++j)
    theta[j] = j < m ? a.theta[j] : 0.0, twice[j] = j < a.d ? 2 * a.weights[j] : 2.0;
  const ConeShared shared{P, theta, twice, rough};
  for (int64_t row = begin; row < end; ++row) {
    ConePerson person(a, shared, row, scratch);
    double *x = a.x + row * a.d, *bound = a.bound + row;
    a.status[row] = person.solve(a.start + row * a.d, x, bound);
    if (a.status[row] == recengine::cone_solved) continue;
    std::fill(x, x + a.d, std::numeric_limits<double>::quiet_NaN());
    *bound = std::numeric_limits<double>::quiet_NaN();
  }
}

}  // namespace KERN_NS
