"""The kernel x' A^-1 x: recourse's worst case, a Bayesian linear model's variance, LinUCB's bonus.

theta.x - alpha sqrt(x' A^-1 x) is the robust score of recourse (alpha^2 = 2 eps), theta.x + alpha sqrt(...)
the optimistic one of LinUCB (Li et al. 2010). One factorisation serves both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from recengine.errors import DataError, UsageError

Array = NDArray[np.float64]


def quadratic_form(H: Array, points: Array) -> Array:
    """h' H^-1 h for each row of ``points`` [N, m], by one Cholesky factor and a triangular solve."""
    try:
        L = np.linalg.cholesky(H)
    except np.linalg.LinAlgError as singular:
        raise DataError("the matrix is not positive definite", where="H", fix="add a penalty") from singular
    return np.asarray(np.square(solve_triangular(L, points.T, lower=True)).sum(axis=0))


def upper_confidence_bound(theta: Array, A: Array, points: Array, alpha: float) -> Array:
    """LinUCB: theta.x + alpha sqrt(x' A^-1 x) for each row of ``points``."""
    return np.asarray(points @ theta + alpha * np.sqrt(quadratic_form(A, points)))


def lower_confidence_bound(theta: Array, A: Array, points: Array, alpha: float) -> Array:
    """theta.x - alpha sqrt(x' A^-1 x) for each row of ``points``."""
    return np.asarray(points @ theta - alpha * np.sqrt(quadratic_form(A, points)))


def after_single_moves(P: Array, points: Array, features: NDArray[np.int64], by: Array) -> Array:
    """x' P x after moving one feature of each row: [N, k] for k moves, O(1) each once P x is known.

    P = A^-1 [m, m]; features [k] and by [N, k] (or [k]): q' = q + 2 delta (P x)_j + delta^2 P_jj.
    """
    Px = points @ P
    now = np.einsum("nm,nm->n", Px, points)
    return np.asarray(now[:, None] + 2 * by * Px[:, features] + by * by * np.diag(P)[features])


class LinUCB:
    """Linear bandit with a shared model: A = ridge I + sum x x', theta = A^-1 sum r x, both kept up to date
    by rank-one steps of the inverse (Sherman-Morrison), O(m^2) an observation."""

    def __init__(self, width: int, *, ridge: float = 1.0, alpha: float = 1.0) -> None:
        if width < 1 or not ridge > 0 or not alpha >= 0:
            raise UsageError(
                "LinUCB needs a width >= 1, ridge > 0 and alpha >= 0", found=f"{width}, {ridge}, {alpha}"
            )
        self.alpha = alpha
        self.P = np.eye(width) / ridge
        self._moment = np.zeros(width)

    @property
    def theta(self) -> Array:
        return np.asarray(self.P @ self._moment)

    def scores(self, points: Array) -> Array:
        """Optimistic scores of candidates [N, m]."""
        Px = points @ self.P
        bonus = np.sqrt(np.maximum(np.einsum("nm,nm->n", Px, points), 0.0))
        return np.asarray(Px @ self._moment + self.alpha * bonus)

    def update(self, x: Array, reward: float) -> None:
        """Learn from one observation x [m]."""
        Px = self.P @ x
        self.P = self.P - np.outer(Px, Px) / (1.0 + float(x @ Px))
        self.P = (self.P + self.P.T) / 2
        self._moment = self._moment + reward * x
