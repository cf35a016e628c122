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
    n = len(points)
    result = points.copy()
    h = np.c_[points, np.ones(n)]
    todo = ellipsoid.worst_logit(h) < tau
    if not todo.any():
        return result
    index = np.flatnonzero(free)
    if index.size == 0:
        result[todo] = np.nan
        return result
    theta, eps = ellipsoid.theta, ellipsoid.eps
    G = np.outer(theta, theta) - 2 * eps * ellipsoid.P
    fixed = h[todo][:1] if index.size == len(free) else h[todo]  # the constant alone: the same for everybody
    fixed[:, index] = 0.0
    root = np.sqrt(weights[index])
    mu, U = np.linalg.eigh(G[np.ix_(index, index)] / np.outer(root, root))
    m = ((fixed @ G)[:, index] - tau * theta[index]) / root @ U
    m0 = np.einsum("ni,ij,nj->n", fixed, G, fixed, optimize=True) - 2 * tau * (fixed @ theta) + tau**2
    slope = (theta[index] / root) @ U
    level = fixed @ theta - tau
    z0 = points[todo][:, index] * root @ U
    m, m0, level = np.broadcast_to(m, z0.shape), np.broadcast_to(m0, len(z0)), np.broadcast_to(level, len(z0))
    parts = (np.require(part, requirements=["C", "W"]) for part in (z0, mu, m, m0, slope, level))
    moved = quadric_nearest(*(torch.from_numpy(part) for part in parts)).numpy()
    result[np.ix_(np.flatnonzero(todo), index)] = moved @ U.T / root
    return result
