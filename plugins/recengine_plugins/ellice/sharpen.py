"""Categories: the same robust region at whole levels, a smaller one between them.

A relaxed category mixes levels, and a mixture is far less uncertain than any of its levels (the spread h'Ph
is convex), so the relaxation promises what no person can do. At whole levels the product of two indicators
of one category is 0, so with q_ij >= 0 for every such pair

    h'Ph + 2 sum q_ij x_i x_j

is the same there and larger in between. It may replace h'Ph wherever it stays convex on the points whose
categories sum to 1. The q that lift given mixtures w_ij = x_i x_j most solve a small semidefinite program,
max w.q subject to P + Q >= 0 on that subspace, here by Newton steps on its log barrier. (Quadratic convex
reformulation, as in Billionnet, Elloumi and Plateau, Discrete Applied Mathematics 157, 2009, with the
square root of a cone.)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, null_space, solve_triangular

from recengine.recourse import Constraints
from recengine_plugins.ellice.cone import Cone, RootedCone
from recengine_plugins.ellice.region import EllipsoidRelaxation

Array = NDArray[np.float64]
_PAIRS = 400  # so many products are lifted at most, those that are mixed most
_ROUNDS = 2
_LEFT = 1e-3  # of the way to where the form would stop being convex


def sharpened(
    relax: EllipsoidRelaxation, limits: Constraints, low: Array, high: Array, rows: NDArray[np.int64]
) -> EllipsoidRelaxation:
    """The relaxation with cones that are tighter between the levels of ``limits``' categories, lifted where
    the people ``rows`` would mix. Answers at whole levels are the same; it holds for nothing else."""
    lifted = relax
    mixtures = []
    if relax.sharp or not limits.groups:
        return relax
    for _ in range(_ROUNDS):
        relaxed = lifted(rows, low, high)
        x = relaxed.points[relaxed.feasible]
        if not len(x):
            break
        mixtures.append(x.T @ x / len(x))
        weight = np.mean(mixtures, axis=0) + 1e-2 * np.outer(x.mean(axis=0), x.mean(axis=0))
        cones = tuple(lift(cone, limits.groups, weight) for cone in relax.problem.cones)
        problem = replace(relax.problem, cones=cones)
        lifted = EllipsoidRelaxation(problem, relax.people, relax.centre, relax.scale, sharp=True)
    return lifted


def lift(cone: Cone, groups: tuple[NDArray[np.int64], ...], weight: Array) -> Cone:
    """A cone that is the same where every category is at one level, and within this one elsewhere.

    weight [d, d]: how much each product of two indicators is worth. The cone itself where its spread is
    degenerate (a region of a net).
    """
    size = len(cone.theta)
    whole = np.zeros((len(groups), size))
    for k, group in enumerate(groups):
        whole[k, group], whole[k, -1] = 1.0, -1.0
    basis = null_space(whole)
    within = basis.T @ cone.P @ basis
    values = np.linalg.eigvalsh(within)
    if not values[0] > 1e-10 * values[-1]:
        return cone
    factor = np.linalg.cholesky(within)
    U = solve_triangular(factor, basis.T, lower=True).T  # the form is the identity in these coordinates
    pairs = [(int(i), int(j)) for group in groups for a, i in enumerate(group) for j in group[a + 1 :]]
    worth = np.array([max(weight[i, j], 0.0) for i, j in pairs])
    if not worth.any():
        return cone
    chosen = np.argsort(-worth, kind="stable")[:_PAIRS]
    i, j = np.array(pairs).T[:, chosen]
    norm = np.linalg.norm(U[i], axis=1) * np.linalg.norm(U[j], axis=1)
    q = _most_lift(U, i, j, worth[chosen], norm) * (1 - _LEFT)
    P = cone.P.copy()
    np.add.at(P, (i, j), q)
    np.add.at(P, (j, i), q)
    onto = basis @ basis.T
    values, vectors = np.linalg.eigh(onto @ P @ onto)
    R = (vectors * np.sqrt(np.maximum(values, 0.0))).T[values > 1e-14 * values[-1]]
    return RootedCone(cone.theta, R.T @ R, cone.eps, R)


def _most_lift(U: Array, i: NDArray[np.int64], j: NDArray[np.int64], worth: Array, norm: Array) -> Array:
    """q >= 0 with I + sum q_p (u_i u_j' + u_j u_i') positive semidefinite and worth.q near its largest."""
    k = U.shape[1]
    w = worth / norm
    w = w / w.max()
    t = np.full(len(i), 0.1 / len(i))  # q = t / norm
    mu = 1.0

    def form(t: Array) -> Array:
        half = (U[i].T * (t / norm)) @ U[j]
        return np.asarray(np.eye(k) + half + half.T)

    def value(t: Array) -> float:
        if not (t > 0).all():
            return -np.inf
        try:
            L = np.linalg.cholesky(form(t))
        except np.linalg.LinAlgError:
            return -np.inf
        return float(w @ t + mu * (2 * np.log(np.diag(L)).sum() + np.log(t).sum()))

    for _ in range(60):
        inner = solve_triangular(np.linalg.cholesky(form(t)), U.T, lower=True)
        G = inner.T @ inner
        across = G[np.ix_(i, j)]
        slope = w + mu * (2 * G[i, j] / norm + 1 / t)
        curve = 2 * mu * (G[np.ix_(i, i)] * G[np.ix_(j, j)] + across * across.T) / np.outer(norm, norm)
        curve[np.diag_indices(len(t))] += mu / t**2
        step = cho_solve(cho_factor(curve), slope)
        decrement = float(slope @ step)
        size, here = 1.0, value(t)
        while value(t + size * step) < here + 0.1 * size * decrement and size > 1e-8:
            size /= 2
        if size > 1e-8:
            t = t + size * step
        if decrement < 0.5 * mu or size <= 1e-8:
            if mu * (k + len(t)) < 1e-3 * float(w @ t):
                break
            mu *= 0.15
    return np.asarray(t / norm)
