"""The convex problem through the interior-point solver Clarabel, one person at a time.

It also gives the multipliers from which the certified bound is built, and its infeasibility certificate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recengine.errors import UsageError
from recengine_plugins.ellice.cone import Cone
from recengine_plugins.ellice.dual import Multipliers
from recengine_plugins.ellice.problem import Convex

Array = NDArray[np.float64]


class ConicStoppedError(UsageError):
    """The conic solver ended with neither an answer nor a proof that there is none."""


@dataclass(frozen=True)
class ConicAnswer:
    """x [d] and the multipliers of one person."""

    x: Array
    given: Multipliers


def _clarabel() -> Any:
    try:
        import clarabel
    except ImportError as missing:
        raise UsageError(
            "this recourse needs the conic solver clarabel", fix="pip install 'recengine[ellice]'"
        ) from missing
    return clarabel


def solve(
    ellipsoid: Cone,
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

    cost: sum w_j (x_j - x0_j)^2 or sum w_j |x_j - x0_j|. cuts [k, d + 1]: with them the cone is replaced by
    the half-spaces cuts.h(x) >= tau (true-set mode).
    """
    d = len(person)
    rows = np.zeros((0, d)) if A is None or b is None else A
    limits = np.zeros(0) if A is None or b is None else b
    if cuts is not None:
        rows, limits = np.r_[rows, -cuts[:, :-1]], np.r_[limits, cuts[:, -1] - tau]
    flat, zero = np.asarray(weights, dtype=np.float64), np.zeros(d)
    problem = Convex(
        (ellipsoid,) if cuts is None else (),
        np.full(int(cuts is None), tau),
        flat if cost == "l2" else zero,
        flat if cost == "l1" else zero,
        rows,
        limits,
        link_rows(links, d),
    )
    answer = solve_problem(problem, person, low, high)
    return None if answer is None else answer.x


def link_rows(links: tuple[tuple[int, int, float], ...], d: int) -> Array:
    """One row E with E x = E x0 for each pair that moves together."""
    E = np.zeros((len(links), d))
    for row, (feature, moves, ratio) in enumerate(links):
        E[row, moves], E[row, feature] = 1.0, -ratio
    return E


def solve_problem(problem: Convex, person: Array, low: Array, high: Array) -> ConicAnswer | None:
    """The optimum for one person, or None with a certificate of infeasibility.

    Raises ConicStoppedError when the solver stops without either.
    """
    clarabel = _clarabel()
    d = len(person)
    kinked = np.flatnonzero(problem.absolute > 0)
    n = d + len(kinked)
    fixed = np.flatnonzero(low == high)
    free_low = np.flatnonzero(np.isfinite(low) & (low < high))
    free_high = np.flatnonzero(np.isfinite(high) & (low < high))
    eye = np.eye(d)
    blocks = [problem.E, eye[fixed], -eye[free_low], eye[free_high], problem.A]
    limits = [problem.E @ person, low[fixed], -low[free_low], high[free_high], problem.b]
    wide = [np.c_[block, np.zeros((len(block), n - d))] for block in blocks]
    if kinked.size:  # |x - x0| <= t
        t = np.eye(len(kinked))
        wide += [np.c_[eye[kinked], -t], np.c_[-eye[kinked], -t]]
        limits += [person[kinked], -person[kinked]]
    equalities = len(problem.E) + len(fixed)
    inequalities = sum(len(part) for part in limits) - equalities
    cones = [clarabel.ZeroConeT(equalities)] if equalities else []
    if inequalities:
        cones.append(clarabel.NonnegativeConeT(inequalities))
    for cone, tau in zip(problem.cones, problem.tau, strict=True):
        R = cone.root * np.sqrt(2 * cone.eps)
        block = -np.r_[cone.theta[None, :-1], R[:, :-1]]
        wide.append(np.c_[block, np.zeros((len(block), n - d))])
        limits.append(np.r_[cone.theta[-1] - tau, R[:, -1]])
        cones.append(clarabel.SecondOrderConeT(len(block)))
    diagonal = np.r_[2 * problem.square, np.zeros(n - d)]
    linear = np.r_[-2 * problem.square * person, problem.absolute[kinked]]
    solution = _run(clarabel, diagonal, linear, np.concatenate(wide), np.concatenate(limits), cones)
    if solution is None:
        return None
    x, z = solution
    return ConicAnswer(np.clip(x[:d], low, high), _multipliers(problem, z, equalities, inequalities, kinked))


def _run(
    clarabel: Any, diagonal: Array, linear: Array, rows: Array, limits: Array, cones: list[Any]
) -> tuple[Array, Array] | None:
    quadratic, matrix = sparse.diags(diagonal, format="csc"), sparse.csc_matrix(rows)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    for tolerance in (1e-10, 1e-7):  # a certificate of the answer is computed afterwards in any case
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
        solution = clarabel.DefaultSolver(quadratic, linear, matrix, limits, cones, settings).solve()
        status = str(solution.status)
        if "Infeasible" in status:
            return None
        if "Solved" in status or status == "InsufficientProgress":
            return np.asarray(solution.x), np.asarray(solution.z)
    raise ConicStoppedError(
        "the conic solver did not reach an answer", found=status, fix="relax the constraints"
    )


def _multipliers(
    problem: Convex, z: Array, equalities: int, inequalities: int, kinked: NDArray[np.int64]
) -> Multipliers:
    """The solver's multipliers in the terms of ``dual``: models of the ellipsoids, lambda, mu, nu."""
    nu = z[: len(problem.E)]
    rows = z[equalities : equalities + inequalities - 2 * len(kinked)]
    mu = rows[len(rows) - len(problem.A) :]
    at = equalities + inequalities
    models, lam = [], []
    for cone in problem.cones:
        R = cone.root
        part = z[at : at + len(R) + 1]
        at += len(part)
        head = max(float(part[0]), 0.0)
        tail = part[1:] / max(head, float(np.linalg.norm(part[1:])), 1e-300)
        models.append(cone.theta + np.sqrt(2 * cone.eps) * R.T @ tail)
        lam.append(head)
    worst = np.stack(models) if models else np.zeros((0, len(problem.square) + 1))
    return Multipliers(
        worst[None, :, :-1], worst[None, :, -1], np.array([lam]).reshape(1, -1), mu[None], nu[None]
    )
