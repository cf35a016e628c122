// One person's projection on a second-order cone within bounds: Newton on the optimality conditions over
// the free coordinates, together with the multiplier; who leaves the bounds is held there, and coordinates
// held with a multiplier of the wrong sign are let go once nobody is outside.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/vec.h"
#include "recourse/kernels.h"

namespace KERN_NS {

typedef double vd __attribute__((vector_size(sizeof(vf))));
typedef vd vd_u __attribute__((aligned(8), may_alias));
inline constexpr int64_t lanes = sizeof(vd) / sizeof(double);
RE_INLINE vd loaded(const double* p) { return *reinterpret_cast<const vd_u*>(p); }

inline double dot(const double* a, const double* b, int64_t n) {
  double s[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int64_t j = 0; j < 8; ++j) s[j] += a[i + j] * b[i + j];
  for (; i < n; ++i) s[0] += a[i] * b[i];
  return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}

class ConePerson {
 public:
  ConePerson(const recengine::ConeArgs& a, const double* P, int64_t row, double* scratch)
      : a_(a), P_(P), d_(a.d), m_(a.d + 1), x0_(a.x0 + row * a.d), low_(a.low + row * a.d), high_(a.high + row * a.d) {
    const int64_t wide = recengine::padded(m_);
    A_ = scratch;
    double* next = A_ + recengine::padded(d_) * recengine::padded(d_ + 2);
    for (double** part : {&h_, &Ph_, &slope_, &u_, &v_, &yu_, &yv_, &inverse_, &move_, &base_, &q_})
      *part = next, next += wide;
    free_ = reinterpret_cast<int64_t*>(next), next += wide;
    held_ = reinterpret_cast<int64_t*>(next);
    h_[d_] = 1.0;
  }

  int64_t solve(const double* start, double* x, double* bound) {
    for (int64_t j = 0; j < d_; ++j) h_[j] = std::clamp(x0_[j], low_[j], high_[j]);
    look();
    if (worst_ >= a_.tau) return finish(0.0, x, bound);
    if (rejected_everywhere()) return recengine::cone_infeasible;
    const bool known = std::isfinite(dot(start, start, d_));
    int64_t state = recengine::cone_undecided;
    if (known) {
      begin(start);
      if (inside(start)) {  // no bound binds: it is the answer already, but for rounding
        state = finish(lambda_, x, bound);
        double cost = 0;
        for (int64_t j = 0; j < d_; ++j) cost += a_.weights[j] * (x[j] - x0_[j]) * (x[j] - x0_[j]);
        if (state == recengine::cone_solved && cost - *bound <= 1e-10 * cost) return state;
        begin(start);
      }
      state = eager();
      if (state == recengine::cone_undecided) begin(start), state = patient();
    }
    if (state == recengine::cone_undecided) {
      begin(known ? start : h_);
      state = by_multiplier();
    }
    return state == recengine::cone_solved ? finish(lambda_, x, bound) : state;
  }

 private:
  template <int count>
  void times(int64_t j, int64_t stride) {
    vd even[count] = {}, odd[count] = {};
    const double* p = P_ + j;
    int64_t k = 0;
    for (; k + 2 <= m_; k += 2, p += 2 * stride)
      for (int r = 0; r < count; ++r) {
        even[r] += h_[k] * loaded(p + r * lanes);
        odd[r] += h_[k + 1] * loaded(p + stride + r * lanes);
      }
    if (k < m_)
      for (int r = 0; r < count; ++r) even[r] += h_[k] * loaded(p + r * lanes);
    for (int r = 0; r < count; ++r) *reinterpret_cast<vd_u*>(Ph_ + j + r * lanes) = even[r] + odd[r];
  }

  // Worst model and worst logit at the current point.
  void look() {
    const int64_t stride = recengine::padded(m_);
    for (int64_t j = 0; j < stride; j += 4 * lanes) {  // four vectors of the result at a time, in registers
      const int64_t count = std::min<int64_t>(4, (stride - j) / lanes);
      if (count == 4) {
        times<4>(j, stride);
      } else {
        for (int64_t r = 0; r < count; ++r) times<1>(j + r * lanes, stride);
      }
    }
    spread_ = std::sqrt(std::max(dot(h_, Ph_, m_), 1e-300));
    bend_ = a_.radius / spread_;
    for (int64_t j = 0; j < m_; ++j) slope_[j] = a_.theta[j] - bend_ * Ph_[j];
    worst_ = dot(a_.theta, h_, m_) - a_.radius * spread_;
  }

  // Whether the worst model at this point rejects every point within the bounds: a proof of infeasibility.
  bool rejected_everywhere() const {
    double sum[8] = {}, size[8] = {};
    for (int64_t j = 0; j < d_; ++j) {
      const double at = slope_[j] > 0 ? high_[j] : low_[j], term = slope_[j] == 0 ? 0.0 : slope_[j] * at;
      sum[j % 8] += term, size[j % 8] += std::fabs(term);
    }
    double best = slope_[d_], scale = std::fabs(slope_[d_]);
    for (int lane = 0; lane < 8; ++lane) best += sum[lane], scale += size[lane];
    return best < a_.tau - 1e-12 * scale;
  }

  bool inside(const double* start) const {
    for (int64_t j = 0; j < d_; ++j)
      if (start[j] < low_[j] || start[j] > high_[j]) return false;
    return true;
  }

  void begin(const double* start) {
    if (start != h_) std::copy(start, start + d_, h_);
    look();
    double top = 0, below = 1e-300;
    for (int64_t j = 0; j < d_; ++j)
      if (low_[j] < high_[j]) top += 2 * a_.weights[j] * (h_[j] - x0_[j]) * slope_[j], below += slope_[j] * slope_[j];
    lambda_ = std::max(top / below, 0.0);
    for (int64_t j = 0; j < d_; ++j) {
      held_[j] = low_[j] == high_[j] || h_[j] < low_[j] || h_[j] > high_[j];
      h_[j] = std::clamp(h_[j], low_[j], high_[j]);
    }
    look();
  }

  // One Newton step over the free coordinates, whose order is free_[0 .. count_). Moves h_, lambda_; sets
  // step_, the largest relative change. Without the constraint the multiplier stays what it is. ``again``: with
  // the matrix of the step before, whose free coordinates were the same. False where nothing is free or the
  // system cannot be solved.
  bool newton(bool constrained, bool again = false) {
    if (!again) {
      count_ = 0;
      for (int64_t j = 0; j < d_; ++j)
        if (!held_[j]) free_[count_++] = j;
    }
    if (count_ == 0) return false;
    const int64_t n = count_, wide = recengine::padded(n + 2);
    if (again) {
      for (int64_t i = 0; i < n; ++i) {
        const int64_t at = free_[i];
        u_[i] = slope_[at], v_[i] = -2 * a_.weights[at] * (h_[at] - x0_[at]);
      }
      forward(n, wide);
    } else {
      assemble(n, wide);
      if (!factor(n, wide)) return false;
    }
    // theta_F . (v + lambda u) = tau - g, both still in the triangular frame
    double uu = 0, uv = 0;
    for (int64_t i = 0; i < n; ++i) uu += yu_[i] * yu_[i] * inverse_[i], uv += yu_[i] * yv_[i] * inverse_[i];
    const double after = constrained ? std::max((a_.tau - worst_ - uv) / uu, 0.0) : lambda_;
    backward(n, wide, after);
    double moved = 0, reach = 0;
    for (int64_t i = 0; i < n; ++i) {
      moved = std::max(moved, std::fabs(move_[i]));
      h_[free_[i]] += move_[i];
    }
    for (int64_t j = 0; j < d_; ++j) reach = std::max(reach, std::fabs(h_[j]));
    step_ = std::max(moved / (1 + reach), 1e-2 * std::fabs(after - lambda_) / (1 + after));
    lambda_ = after;
    return std::isfinite(moved);
  }

  // Upper triangle of the Hessian over the free coordinates, row by row; two more columns for the right sides.
  void assemble(int64_t n, int64_t wide) {
    const double curve = lambda_ * bend_, shrink = curve / (spread_ * spread_);
    for (int64_t j = 0; j < n; ++j) q_[j] = Ph_[free_[j]];
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = free_[i];
      const double *row = P_ + at * recengine::padded(m_), tilt = shrink * Ph_[at];
      double* out = A_ + i * wide;
      std::fill(out + i / 8 * 8, out + i, 0.0);
#pragma GCC ivdep
      for (int64_t j = i; j < n; ++j) out[j] = curve * row[free_[j]] - tilt * q_[j];
      std::fill(out + n, out + wide, 0.0);
      out[i] += 2 * a_.weights[at];
      out[n] = slope_[at];
      out[n + 1] = -2 * a_.weights[at] * (h_[at] - x0_[at]);
    }
  }

  // A = L D L': rows of D L' in the upper triangle (below it in each eight: leftovers), eight pivots at once,
  // 1/D in inverse_, L^-1 of the right sides in yu_, yv_.
  bool factor(int64_t n, int64_t wide) {
    for (int64_t k0 = 0; k0 < n; k0 += 8) {
      const int64_t k1 = std::min(n, k0 + 8);
      for (int64_t k = k0; k < k1; ++k) {
        const double* pivot = A_ + k * wide;
        if (!(pivot[k] > 0)) return false;
        const double inverse = inverse_[k] = 1 / pivot[k];
        for (int64_t i = k + 1; i < k1; ++i) {
          const double c = pivot[i] * inverse;
          double* row = A_ + i * wide;
#pragma GCC ivdep
          for (int64_t j = k0; j < wide; ++j) row[j] -= c * pivot[j];
        }
        yu_[k] = pivot[n], yv_[k] = pivot[n + 1];
      }
      if (k1 < k0 + 8) break;
      const double* p = A_ + k0 * wide;
      int64_t i = k1;
      for (; i + 2 <= n; i += 2) take<2>(p, inverse_ + k0, wide, i);
      if (i < n) take<1>(p, inverse_ + k0, wide, i);
    }
    return true;
  }

  // rows i .. i + count of A lose their part along the eight finished rows p
  template <int count>
  void take(const double* p, const double* inverse, int64_t wide, int64_t i) {
    double c[count][8];
    for (int r = 0; r < count; ++r)
      for (int q = 0; q < 8; ++q) c[r][q] = p[q * wide + i + r] * inverse[q];
    double* row = A_ + i * wide;
    for (int64_t j = i / 8 * 8; j < wide; j += lanes) {
      vd sum[count];
      for (int r = 0; r < count; ++r) sum[r] = loaded(row + r * wide + j);
      for (int q = 0; q < 8; ++q) {
        const vd along = loaded(p + q * wide + j);
        for (int r = 0; r < count; ++r) sum[r] -= c[r][q] * along;
      }
      for (int r = 0; r < count; ++r) *reinterpret_cast<vd_u*>(row + r * wide + j) = sum[r];
    }
  }

  // L^-1 of u_, v_ under a factor that stands already; what the leftovers spoil is not read again
  void forward(int64_t n, int64_t wide) {
    for (int64_t k = 0; k < n; ++k) {
      const double *row = A_ + k * wide, cu = u_[k] * inverse_[k], cv = v_[k] * inverse_[k];
      yu_[k] = u_[k], yv_[k] = v_[k];
#pragma GCC ivdep
      for (int64_t j = k / 8 * 8; j < n; ++j) u_[j] -= cu * row[j], v_[j] -= cv * row[j];
    }
  }

  // move_ = L'^-1 D^-1 (yv_ + after yu_), eight at a time: first what the finished ones take from each of them
  void backward(int64_t n, int64_t wide, double after) {
    const int64_t full = recengine::padded(n);
    std::fill(move_, move_ + full, 0.0);
    for (int64_t k0 = full - 8; k0 >= 0; k0 -= 8) {
      const int64_t k1 = std::min(n, k0 + 8);
      double left[8];
      for (int64_t k = k0; k < k1; ++k) {
        const double* row = A_ + k * wide;
        vd sum = {};
        for (int64_t j = k0 + 8; j < full; j += lanes) sum += loaded(row + j) * loaded(move_ + j);
        left[k - k0] = yv_[k] + after * yu_[k];
        for (int64_t lane = 0; lane < lanes; ++lane) left[k - k0] -= sum[lane];
      }
      for (int64_t k = k1 - 1; k >= k0; --k) {
        const double found = move_[k] = left[k - k0] * inverse_[k];
        for (int64_t i = k0; i < k; ++i) left[i - k0] -= A_[i * wide + k] * found;
      }
    }
  }

  bool wrong_sign(int64_t j) const {
    const double gradient = 2 * a_.weights[j] * (h_[j] - x0_[j]) - lambda_ * slope_[j];
    return h_[j] <= low_[j] ? gradient < -1e-9 : gradient > 1e-9;
  }

  static constexpr double done = 1e-7;  // Newton squares the error: what is left is far below rounding of costs

  // First everybody out of the bounds is held, then those with the wrong sign are let go.
  int64_t patient() {
    for (int64_t round = 0; round < a_.iterations; ++round) {
      if (!newton(true)) break;
      bool outside = false;
      for (int64_t i = 0; i < count_; ++i) {
        const int64_t j = free_[i];
        if (h_[j] >= low_[j] && h_[j] <= high_[j]) continue;
        h_[j] = std::clamp(h_[j], low_[j], high_[j]);
        held_[j] = outside = true;
      }
      look();
      if (rejected_everywhere()) return recengine::cone_infeasible;
      if (outside || step_ > 1e-3) continue;
      bool let_go = false;
      for (int64_t j = 0; j < d_; ++j)
        if (held_[j] && low_[j] < high_[j] && wrong_sign(j)) held_[j] = 0, let_go = true;
      if (!let_go && step_ < done) return recengine::cone_solved;
    }
    return recengine::cone_undecided;
  }

  // The same with the held coordinates chosen anew after every step: fewer steps where it works at all. While
  // they stay what they were and steps shrink well, the matrix stays, too.
  int64_t eager() {
    bool again = false;
    double before = 0;  // the step before, 0 where the free coordinates were others
    for (int round = 0; round < 12; ++round) {
      if (!newton(true, again)) break;
      bool changed = false;
      for (int64_t i = 0; i < count_; ++i) {
        const int64_t j = free_[i];
        if (h_[j] >= low_[j] && h_[j] <= high_[j]) continue;
        h_[j] = std::clamp(h_[j], low_[j], high_[j]);
        held_[j] = changed = true;
      }
      look();
      if (round > 1 && rejected_everywhere()) return recengine::cone_infeasible;
      if (round > 0)
        for (int64_t j = 0; j < d_; ++j)
          if (held_[j] && low_[j] < high_[j] && wrong_sign(j)) held_[j] = 0, changed = true;
      // an old matrix leaves the share step_ / before of the step to do, a new one about its square
      if (!changed && (again ? step_ * step_ < 1e-10 * before : step_ < done)) return recengine::cone_solved;
      again = !changed && step_ < 0.1 && !(again && step_ > 0.2 * before);
      before = changed ? 0 : step_;
    }
    return recengine::cone_undecided;
  }

  double objective() const {
    double value = -lambda_ * worst_;
    for (int64_t j = 0; j < d_; ++j) value += a_.weights[j] * (h_[j] - x0_[j]) * (h_[j] - x0_[j]);
    return value;
  }

  // argmin over the box of cost - lambda g for the present lambda: projected Newton with backtracking, which
  // converges from everywhere. True when a proof of infeasibility was met.
  bool settle() {
    for (int round = 0; round < 60; ++round) {
      for (int64_t j = 0; j < d_; ++j)
        held_[j] = low_[j] == high_[j] || ((h_[j] <= low_[j] || h_[j] >= high_[j]) && !wrong_sign(j));
      std::copy(h_, h_ + d_, base_);
      const double before = objective();
      if (!newton(false)) return false;
      for (double part = 1;; part /= 2) {
        for (int64_t i = 0; i < count_; ++i) {
          const int64_t j = free_[i];
          h_[j] = std::clamp(base_[j] + part * move_[i], low_[j], high_[j]);
        }
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
      double below = 1e-300;
      for (int64_t j = 0; j < d_; ++j)
        if (!held_[j]) below += slope_[j] * slope_[j];
      const double size = (a_.tau + slack - worst_ + slack * static_cast<double>(1 << std::min(attempt, 20))) / below;
      for (int64_t j = 0; j < d_; ++j)
        if (!held_[j]) h_[j] = std::clamp(h_[j] + size * slope_[j], low_[j], high_[j]);
      look();
    }
    double value = -lambda * (slope_[d_] - a_.tau);
    for (int64_t j = 0; j < d_; ++j) {
      const double w = a_.weights[j];
      const double best = std::clamp(x0_[j] + lambda * slope_[j] / (2 * w), low_[j], high_[j]);
      value += w * (best - x0_[j]) * (best - x0_[j]) - lambda * slope_[j] * best;
    }
    std::copy(h_, h_ + d_, x);
    *bound = std::max(value, 0.0);
    return recengine::cone_solved;
  }

  const recengine::ConeArgs& a_;
  const double* P_;  // a.P with rows of whole eights
  const int64_t d_, m_;
  const double *x0_, *low_, *high_;
  double *A_, *h_, *Ph_, *slope_, *u_, *v_, *yu_, *yv_, *inverse_, *move_, *base_, *q_;
  int64_t *free_, *held_, count_ = 0;
  double spread_ = 1, bend_ = 0, worst_ = 0, lambda_ = 0, step_ = 0;
};

void cone_rows(const recengine::ConeArgs& a, int64_t begin, int64_t end, double* scratch) {
  const int64_t m = a.d + 1, wide = recengine::padded(m);
  double* P = reinterpret_cast<double*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  scratch = P + m * wide;
  for (int64_t k = 0; k < m; ++k) {
    std::copy(a.P + k * m, a.P + (k + 1) * m, P + k * wide);
    std::fill(P + k * wide + m, P + (k + 1) * wide, 0.0);
  }
  for (int64_t row = begin; row < end; ++row) {
    ConePerson person(a, P, row, scratch);
    double *x = a.x + row * a.d, *bound = a.bound + row;
    a.status[row] = person.solve(a.start + row * a.d, x, bound);
    if (a.status[row] == recengine::cone_solved) continue;
    std::fill(x, x + a.d, std::numeric_limits<double>::quiet_NaN());
    *bound = std::numeric_limits<double>::quiet_NaN();
  }
}

}  // namespace KERN_NS
