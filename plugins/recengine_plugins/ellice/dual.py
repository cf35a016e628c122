"""Lower bounds of the cost that hold whatever the solver did.

For models theta'_j of the ellipsoids, lambda, mu >= 0 and any nu,
  min over the box of cost(x) - sum lambda_j (theta'_j.h - tau_j) + mu.(A x - b) + nu.(E x - e)
is separable and never above the optimum (weak duality). It is also how infeasibility is proved: with no cost
at all a positive value leaves no point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Multipliers:
    """Per person: slopes [N, J, d] and biases [N, J] of models of the ellipsoids, lam [N, J], mu [N, r],
    nu [N, k]."""

    slopes: Array
    biases: Array
    lam: Array
    mu: Array
    nu: Array


@dataclass(frozen=True)
class Prices:
    """slope [N, d], level [N]: slope.(x - x0) + level <= 0 at every point x that keeps cones, rows and
    equalities, whatever its bounds; so cost(x) plus that is a lower bound of the cost. NaN where unknown."""

    slope: Array
    level: Array

    @classmethod
    def unknown(cls, people: Array) -> Prices:
        return cls(np.full_like(people, np.nan), np.full(len(people), np.nan))


def prices_of(
    people: Array, tau: Array, A: Array, b: Array, E: Array, e: Array, given: Multipliers
) -> Prices:
    """What the constraints say together under ``given`` multipliers."""
    lam, mu = np.maximum(given.lam, 0.0), np.maximum(given.mu, 0.0)
    slope = -np.einsum("nj,njd->nd", lam, given.slopes) + mu @ A + given.nu @ E
    level = -np.einsum("nj,nj->n", lam, given.biases - tau) - mu @ b
    level = level - np.einsum("nk,nk->n", given.nu, e) + np.einsum("nd,nd->n", slope, people)
    return Prices(slope, level)


def separable_bound(
    people: Array,
    square: Array,
    absolute: Array,
    low: Array,
    high: Array,
    tau: Array,
    A: Array,
    b: Array,
    E: Array,
    e: Array,
    given: Multipliers,
) -> Array:
    """The dual value [N]; multipliers are shrunk as far as needed for it to be finite.

    square, absolute [d]: cost of each coordinate; tau [J]; e [N, k].
    """
    prices = prices_of(people, tau, A, b, E, e, given)
    slope, constant = prices.slope, prices.level
    below, above = low - people, high - people  # delta = x - x0 runs in between
    shrink = np.ones(len(people))
    flat = square == 0
    if flat.any():
        runs_off = flat & (((slope > absolute) & np.isinf(below)) | ((slope < -absolute) & np.isinf(above)))
        with np.errstate(divide="ignore", invalid="ignore"):
            allowed = np.where(runs_off, absolute / np.abs(slope), 1.0)
        shrink = allowed.min(axis=1, initial=1.0)
        slope, constant = slope * shrink[:, None], constant * shrink
        slope = np.where(runs_off, np.clip(slope, -absolute, absolute), slope)
    pulled = np.sign(slope) * np.maximum(np.abs(slope) - absolute, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.where(flat, np.where(pulled > 0, -np.inf, np.where(pulled < 0, np.inf, 0.0)),
                        -pulled / (2 * square))  # fmt: skip
    step = np.where(pulled == 0, 0.0, step)
    step = np.clip(step, below, above)
    value = square * step * step + absolute * np.abs(step) + slope * step
    return np.asarray(value.sum(axis=1) + constant)
