// The contract of the recourse kernels: raw pointers, row-major float64, nothing from torch. A person's
// result does not depend on the others, so rows may be cut over threads anyhow.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace recengine {

// Nearest z to z0 with q(z) = sum mu z^2 + 2 m.z + m0 = 0 and slope.z + level > 0.
struct QuadricArgs {
  const double* z0;     // [n, k]
  const double* mu;     // [k], ascending
  const double* m;      // [n, k], or [1, k] for everybody
  const double* m0;     // [n] or [1]
  const double* slope;  // [k]
  const double* level;  // [n] or [1]
  double* z;            // [n, k]; NaN where there is none
  int64_t k;
  bool shared;          // one m, m0, level for everybody
};

// min sum w (x - x0)^2  with  theta.h - radius sqrt(h' P h) >= tau, h = [x; 1], low <= x <= high.
struct ConeArgs {
  const double* x0;       // [n, d]
  const double* start;    // [n, d]; the answer without bounds; a row with NaN where it is not known
  const double* theta;    // [d + 1]
  const double* P;        // [d + 1, d + 1], symmetric, positive definite
  const double* weights;  // [d]
  const double* low;      // [n, d]
  const double* high;     // [n, d]
  double radius, tau;
  int64_t d, iterations;
  double* x;        // [n, d]
  double* bound;    // [n]: the optimal cost is at least this
  int64_t* status;  // [n]: one of the three below
};
inline constexpr int64_t cone_solved = 0, cone_infeasible = 1, cone_undecided = 2;

inline int64_t padded(int64_t n) { return (n + 7) / 8 * 8; }
inline int64_t padded16(int64_t n) { return (n + 15) / 16 * 16; }
inline int64_t quadric_scratch(int64_t k) { return 4 * padded(k); }
inline int64_t factor_scratch(int64_t d) { return (d + 13) * padded16(d + 3) + 16; }  // elements
// P in double and float, a factor in each, the vectors of a person
inline int64_t cone_scratch(int64_t d) {
  return padded(d + 1) * padded16(d + 1) * 2 + 2 * factor_scratch(d) + 16 * padded16(d + 1) + 64;
}

}  // namespace recengine

RECENGINE_DECLARE(
    // scratch: quadric_scratch(k), cone_scratch(d) doubles
    void quadric_rows(const recengine::QuadricArgs& a, int64_t begin, int64_t end, double* scratch);
    void cone_rows(const recengine::ConeArgs& a, int64_t begin, int64_t end, double* scratch);)
