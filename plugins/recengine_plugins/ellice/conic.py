"""The general convex problem through the interior-point solver Clarabel, one person at a time.

min cost(x - x0)  s.t.  ||sqrt(2 eps) L^-1 h(x)|| <= theta.h(x) - tau,  low <= x <= high,  A x <= b,
linked features; cost is sum w_j (x_j - x0_j)^2 or sum w_j |x_j - x0_j|.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recengine.errors import UsageError
from recengine_plugins.ellice.rashomon import Ellipsoid

Array = NDArray[np.float64]


def _clarabel() -> Any:
    try:
        import clarabel
    except ImportError as missing:
        raise UsageError(
            "this recourse needs the conic solver clarabel", fix="pip install 'recengine[ellice]'"
        ) from missing
    return clarabel


def solve(
    ellipsoid: Ellipsoid,
    person: Array,
    weights: Array,
    low: Array,
    high: Array,
    *,
    tau: float,
    cost: Literal["l2", "l1"] = "l2",
    A: Array | None = None,
    b: Array | None = None,
    links: tuple[tuple[int, int, float], ...] = (),
    cuts: Array | None = None,
) -> Array | None:
    """The cheapest robust point [d], or None when a certificate of infeasibility was found.

    cuts [k, d + 1]: with them the cone is replaced by the half-spaces cuts.h(x) >= tau (true-set mode).
    """
    clarabel = _clarabel()
    d = len(person)
    l1 = cost == "l1"
    n = 2 * d if l1 else d
    rows: list[Array] = []
    limits: list[float] = []
    cones: list[Any] = []

    def widen(matrix: Array) -> Array:
        return np.c_[matrix, np.zeros((len(matrix), n - d))] if n > d else matrix

    for feature, moves, ratio in links:
        row = np.zeros(d)
        row[moves], row[feature] = 1.0, -ratio
        rows.append(row[None])
        limits.append(float(row @ person))
    fixed = np.flatnonzero(low == high)
    rows.append(np.eye(d)[fixed])
    limits.extend(low[fixed])
    equalities = len(limits)
    if equalities:
        cones.append(clarabel.ZeroConeT(equalities))
    free_low = np.flatnonzero(np.isfinite(low) & (low < high))
    free_high = np.flatnonzero(np.isfinite(high) & (low < high))
    rows += [-np.eye(d)[free_low], np.eye(d)[free_high]]
    limits += [*(-low[free_low]), *high[free_high]]
    if A is not None and b is not None and len(A):
        rows.append(A)
        limits += list(b)
    if cuts is not None:
        rows.append(-cuts[:, :-1])
        limits += list(cuts[:, -1] - tau)
    wide = [widen(matrix) for matrix in rows]
    if l1:  # |x - x0| <= t
        eye = np.eye(d)
        wide += [np.c_[eye, -eye], np.c_[-eye, -eye]]
        limits += [*person, *(-person)]
    inequalities = len(limits) - equalities
    if inequalities:
        cones.append(clarabel.NonnegativeConeT(inequalities))
    if cuts is None:  # (theta.h - tau, sqrt(2 eps) R h) in the second-order cone, with R'R = H^-1
        R = np.linalg.cholesky(ellipsoid.P).T * np.sqrt(2 * ellipsoid.eps)
        head = ellipsoid.theta[None, :-1]
        wide.append(widen(-np.r_[head, R[:, :-1]]))
        limits += [float(ellipsoid.theta[-1] - tau), *R[:, -1]]
        cones.append(clarabel.SecondOrderConeT(len(ellipsoid.theta) + 1))
    scale = np.sqrt(weights)
    P = sparse.csc_matrix((n, n)) if l1 else sparse.diags(2 * scale**2, format="csc")
    q = np.r_[np.zeros(d), weights] if l1 else -2 * weights * person
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    solver = clarabel.DefaultSolver(
        P, q, sparse.csc_matrix(np.concatenate(wide)), np.asarray(limits, dtype=np.float64), cones, settings
    )
    solution = solver.solve()
    status = str(solution.status)
    if "Infeasible" in status:
        return None
    if "Solved" not in status:
        raise UsageError(
            "the conic solver did not reach an answer", found=status, fix="relax the constraints"
        )
    return np.clip(np.asarray(solution.x)[:d], low, high)
