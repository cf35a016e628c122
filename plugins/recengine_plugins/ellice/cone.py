"""The robust region as a second-order cone: where every model of an ellipsoid scores high enough.

g(x) = theta.h - sqrt(2 eps) ||R h||, h = [x; 1], R'R = P. For a last layer on phi(x) = B x + c and a contrast
a of its scores (1 or -1 for two classes, e_k - e_c for several) the score is linear in h through
T = a (x) [[B, c], [0, 1]], so theta = T'theta^, R = L^-1 T with L L' = H: one formula for linear models,
regions of nets, pairs of classes and pairs of items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr, solve_triangular

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cone:
    """theta [d + 1] (bias last), P [d + 1, d + 1] positive semidefinite, eps >= 0."""

    theta: Array
    P: Array
    eps: float

    @property
    def root(self) -> Array:
        """R [k, d + 1] with R'R = P."""
        values, vectors = np.linalg.eigh(self.P)
        kept = values > 1e-15 * max(float(values[-1]), 1e-300)
        return np.asarray((vectors[:, kept] * np.sqrt(values[kept])).T)

    def worst_logit(self, h: Array) -> Array:
        """g(h) for rows h [N, d + 1] that end with 1."""
        return np.asarray(h @ self.theta - np.sqrt(2 * self.eps * self.spread(h)))

    def spread(self, h: Array) -> Array:
        """h' P h, never negative."""
        return np.maximum(np.einsum("ni,ni->n", h @ self.P, h), 0.0)

    def ceiling(self, h: Array, free: NDArray[np.bool_]) -> Array:
        """The supremum of g over the ``free`` [d] features, the others as in rows h [N, d + 1].

        With z* = -P_FF^-1 P_Ff h_f, rho^2 = theta_F' P_FF^-1 theta_F and s^2 the spread at z*, it is
        theta.(h_f, z*) - s sqrt(2 eps - rho^2); without end where rho^2 >= 2 eps.
        """
        loose = np.append(free, False)
        F = self.P[np.ix_(loose, loose)]
        slope = self.theta[loose]
        try:
            back = np.linalg.solve(F, np.c_[self.P[np.ix_(loose, ~loose)], slope])
        except np.linalg.LinAlgError:
            return np.full(len(h), np.inf)
        left = 2 * self.eps - float(slope @ back[:, -1])
        if not left > 1e-9 * self.eps:
            return np.full(len(h), np.inf)
        there = h.copy()
        there[:, loose] = -h[:, ~loose] @ back[:, :-1].T
        return np.asarray(there @ self.theta - np.sqrt(left * self.spread(there)))

    def worst_model(self, h: Array) -> Array:
        """The model (as a linear function of h) that likes each row least: [N, d + 1]."""
        Ph = h @ self.P
        scale = np.sqrt(np.maximum(np.einsum("ni,ni->n", h, Ph), 1e-300))
        return np.asarray(self.theta - np.sqrt(2 * self.eps) * Ph / scale[:, None])

    def rescaled(self, centre: Array, scale: Array) -> Cone:
        """The same region for u with x = centre + scale u."""
        d = len(scale)
        T = np.zeros((d + 1, d + 1))
        T[:d, :d], T[:d, d], T[d, d] = np.diag(scale), centre, 1.0
        P = T.T @ self.P @ T
        return RootedCone(T.T @ self.theta, (P + P.T) / 2, self.eps, self.root @ T)


@dataclass(frozen=True)
class RootedCone(Cone):
    """A cone that knows R already."""

    R: Array

    @property
    def root(self) -> Array:
        return self.R


def seen_through(theta: Array, factor: Array, eps: float, B: Array, c: Array, contrast: Array) -> RootedCone:
    """The cone over x of a last layer ``theta`` [C m] with H = factor factor', on phi(x) = B x + c.

    contrast [C]: weights of the scores; C = 1 for two classes.
    """
    inner = np.zeros((len(c) + 1, B.shape[1] + 1))
    inner[:-1, :-1], inner[:-1, -1], inner[-1, -1] = B, c, 1.0
    T = np.kron(np.asarray(contrast, dtype=np.float64)[:, None], inner)
    return through(theta, factor, eps, T)


def through(theta: Array, factor: Array, eps: float, T: Array) -> RootedCone:
    """The cone over x of scores theta.(T h): T [p, d + 1]."""
    R = solve_triangular(factor, T, lower=True)
    if R.shape[0] > R.shape[1]:
        R = qr(R, mode="r")[0][: R.shape[1]]
    P = R.T @ R
    return RootedCone(T.T @ theta, (P + P.T) / 2, eps, R)


def unlikely_region(rows: Array, quantile: float, scale: Array) -> RootedCone:
    """Plausibility as a cone: Mahalanobis distance from ``rows`` [n, d] at most the ``quantile`` of theirs.

    r - ||L^-1 (x - mean)|| >= 0 with the covariance of the rows, shrunk by 1e-3 of ``scale``^2.
    """
    mean = rows.mean(axis=0)
    centred = (rows - mean) / scale
    covariance = centred.T @ centred / max(len(rows) - 1, 1) + 1e-3 * np.eye(len(mean))
    L = np.linalg.cholesky(covariance)
    inner = np.c_[np.diag(1 / scale), -mean / scale]
    R = solve_triangular(L, inner, lower=True)
    radius = float(np.quantile(np.linalg.norm(np.c_[rows, np.ones(len(rows))] @ R.T, axis=1), quantile))
    theta = np.zeros(rows.shape[1] + 1)
    theta[-1] = radius
    return RootedCone(theta, R.T @ R, 0.5, R)  # 2 eps = 1
