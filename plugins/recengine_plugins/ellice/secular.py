"""Exact projection on the robust region, many people at once.

Over the free coordinates z the region {theta.h - tau >= sqrt(2 eps h' P h)} is one nappe of the quadric
q(z) = z' M z + 2 m.z + m0 >= 0, with G = theta theta' - 2 eps P, M = G_FF (at most one positive
eigenvalue), m = (G c)_F - tau theta_F, m0 = c' G c - 2 tau theta.c + tau^2 and c the fixed part of h. The
nearest point in the norm sum w_j (x_j - x0_j)^2 solves a secular equation: in the eigenbasis of
W^-1/2 M W^-1/2 = U diag(mu) U', z_i(nu) = (z0_i + 2 nu m~_i)/(1 - 2 nu mu_i) with nu >= 0 the root of
q(z(nu)) = 0 on the right nappe. Confidently rejected people have theirs beyond the pole 1/(2 mu_max). One
eigendecomposition serves everybody with the same free coordinates.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from recengine.ops.recourse import quadric_nearest
from recengine_plugins.ellice.cone import Cone

Array = NDArray[np.float64]


def project(ellipsoid: Cone, points: Array, weights: Array, free: NDArray[np.bool_], *, tau: float) -> Array:
    """Nearest robust points [N, d] to ``points`` [N, d], moving the ``free`` coordinates only.

    weights [d] > 0. A row is NaN where the fixed coordinates leave no robust point. Points that are robust
    already stay.
    """
    todo = ellipsoid.worst_logit(np.c_[points, np.ones(len(points))]) < tau
    result = points.copy()
    if todo.any():
        result[todo] = onto_surface(ellipsoid, points[todo], weights, free, tau=tau)
    return result


def onto_surface(
    ellipsoid: Cone, points: Array, weights: Array, free: NDArray[np.bool_], *, tau: float
) -> Array:
    """The same for points that are not robust; what becomes of others is not said."""
    index = np.flatnonzero(free)
    if index.size == 0:
        return np.full_like(points, np.nan)
    everything = index.size == len(free)
    theta, eps = ellipsoid.theta, ellipsoid.eps
    G = np.outer(theta, theta) - 2 * eps * ellipsoid.P
    fixed = np.c_[
        np.zeros_like(points[:1]) if everything else points, np.ones(1 if everything else len(points))
    ]
    fixed[:, index] = 0.0  # where everything is free the constant alone is left: the same for everybody
    root = np.sqrt(weights[index])
    mu, U = np.linalg.eigh(G[np.ix_(index, index)] / np.outer(root, root))
    into, back = root[:, None] * U, U.T / root
    m = (fixed @ G[:, index] - tau * theta[index]) / root @ U
    level = fixed @ theta - tau
    m0 = np.einsum("ni,ij,nj->n", fixed, G, fixed, optimize=True) - 2 * tau * (fixed @ theta) + tau**2
    z0 = (points if everything else points[:, index]) @ into
    parts = (np.ascontiguousarray(part) for part in (z0, mu, m, m0, theta[index] / root @ U, level))
    moved = quadric_nearest(*(torch.from_numpy(part) for part in parts)).numpy() @ back
    if everything:
        return np.asarray(moved)
    result = points.copy()
    result[:, index] = moved
    return result
