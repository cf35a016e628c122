"""Judges that share no code with the solver: Clarabel on the conic program, and rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import clarabel
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[np.float64]


def clarabel_point(
    theta: Array,
    H: Array,
    eps: float,
    x0: Array,
    weights: Array,
    low: Array,
    high: Array,
    tau: float,
    unit: float = 1.0,
    tolerance: float = 1e-11,
) -> Array | None:
    """min sum w (x - x0)^2, theta.h - sqrt(2 eps h' H^-1 h) >= tau, low <= x <= high; None: infeasible.

    Variables are z = sqrt(w) (x - x0) / unit; with a unit near the length of the answer the solver's
    tolerance is relative to it. H^-1 enters as L^-1 of the Cholesky factor of H. Raises ArithmeticError when
    Clarabel stops short of the tolerance.
    """
    d = len(x0)
    R = np.sqrt(2 * eps) * np.linalg.inv(np.linalg.cholesky(H))
    fixed, below, above = low == high, np.isfinite(low) & (low < high), np.isfinite(high) & (low < high)
    size = unit / np.sqrt(weights)
    eye = np.diag(size)
    h0 = np.r_[x0, 1.0]
    rows = [eye[fixed], -eye[below], eye[above], -theta[None, :-1] * size, -R[:, :-1] * size]
    right = [
        (low - x0)[fixed],
        (x0 - low)[below],
        (high - x0)[above],
        np.array([theta @ h0 - tau]),
        R @ h0,
    ]
    cones = [clarabel.ZeroConeT(int(fixed.sum()))] if fixed.any() else []
    if below.any() or above.any():
        cones.append(clarabel.NonnegativeConeT(int(below.sum() + above.sum())))
    cones.append(clarabel.SecondOrderConeT(1 + len(R)))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
    settings.tol_infeas_abs = settings.tol_infeas_rel = 1e-9
    solver = clarabel.DefaultSolver(
        sparse.diags(np.full(d, 2.0), format="csc"),
        np.zeros(d),
        sparse.csc_matrix(np.concatenate(rows)),
        np.concatenate(right),
        cones,
        settings,
    )
    found = solver.solve()
    status = str(found.status)
    if "Infeasible" not in status and status != "Solved":
        raise ArithmeticError(f"Clarabel ended with {status}")
    return None if "Infeasible" in status else x0 + size * np.asarray(found.x)


def least_curvature(H: Array) -> float:
    """A proved lower bound of the smallest eigenvalue of H.

    A floating-point Cholesky factorisation of H - s I that runs to its end proves H - s I + e I positive
    definite for e >= (m + 2) u trace / (1 - (m + 2) u) (Rump, 2006); u doubled for the rounding of H - s I.
    """
    m = len(H)
    unit = 2 * np.finfo(float).eps
    slack = (m + 2) * unit * float(np.trace(H)) * 1.01
    shift = 0.999 * float(np.linalg.eigvalsh(H)[0]) - slack
    np.linalg.cholesky(H - shift * np.eye(m))
    return shift - slack


def _exact(values: Array) -> list[Fraction]:
    return [Fraction(float(value)) for value in values]


def _dot(a: list[Fraction], b: list[Fraction]) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def accepts_exactly(theta: Array, H: Array, eps: float, x: Array, curvature: float) -> bool:
    """Whether theta'.h >= 0 whenever (theta' - theta)' H (theta' - theta) <= 2 eps: rationals only.

    With y near H^-1 h and r = h - H y:  h' H^-1 h <= 2 h.y - y'Hy + |r|^2 / curvature.
    """
    h = np.r_[x, 1.0]
    y = np.linalg.solve(H, h)
    hf, yf, matrix = _exact(h), _exact(y), [_exact(row) for row in H]
    Hy = [_dot(row, yf) for row in matrix]
    residual = [a - b for a, b in zip(hf, Hy, strict=True)]
    spread = 2 * _dot(hf, yf) - _dot(yf, Hy) + _dot(residual, residual) / Fraction(curvature)
    score = _dot(_exact(theta), hf)
    return score >= 0 and score * score >= 2 * Fraction(eps) * spread


def exact_bound(
    theta: Array,
    H: Array,
    eps: float,
    x0: Array,
    x: Array,
    weights: Array,
    low: Array,
    high: Array,
    tau: float,
) -> Fraction:
    """A lower bound of the optimal cost, in rationals: one model of the ellipsoid and a multiplier, both near
    those of the answer x. (Any model of the ellipsoid and any multiplier >= 0 give a valid bound.)"""
    h = np.r_[x, 1.0]
    Ph = np.linalg.solve(H, h)
    step = -np.sqrt(2 * eps / (h @ Ph)) * Ph * (1 - 1e-10)
    free = (x > low + 1e-9) & (x < high - 1e-9)
    slope = (theta + step)[:-1]
    pull = 2 * weights * (x - x0)
    if not free.any():
        free = np.abs(pull) > 0
    multiplier = max(float((pull * slope)[free].sum() / max(np.square(slope[free]).sum(), 1e-300)), 0.0)
    move = _exact(step)
    size = _dot(move, [_dot(_exact(row), move) for row in H])
    assert size <= 2 * Fraction(eps), "the model lies outside the ellipsoid"
    model = [a + b for a, b in zip(_exact(theta), move, strict=True)]
    lam = Fraction(multiplier)
    value = -lam * (model[-1] - Fraction(tau))
    for j in range(len(x)):
        w, start = Fraction(float(weights[j])), Fraction(float(x0[j]))
        best = start + lam * model[j] / (2 * w)
        if np.isfinite(low[j]):
            best = max(best, Fraction(float(low[j])))
        if np.isfinite(high[j]):
            best = min(best, Fraction(float(high[j])))
        value += w * (best - start) ** 2 - lam * model[j] * best
    return value


def exact_cost(x0: Array, x: Array, weights: Array) -> Fraction:
    return sum(
        (w * (a - b) ** 2 for w, a, b in zip(_exact(weights), _exact(x), _exact(x0), strict=True)),
        Fraction(0),
    )
