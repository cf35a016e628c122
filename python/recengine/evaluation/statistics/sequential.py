"""Group-sequential bounds by alpha spending: look several times, keep the level.

With z statistics at information fractions t_1 < ... < t_K = 1, the bound at look j is chosen so that the
probability of crossing for the first time there equals a(t_j) - a(t_{j-1}) (Lan and DeMets, 1983), computed
by recursive integration of the joint density of the Brownian path (Armitage, McPherson and Rowe, 1969).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from recengine.errors import UsageError

Spending = Literal["obrien-fleming", "pocock"]
_GRID = 4001


def spending_bounds(
    fractions: Sequence[float], *, alpha: float = 0.05, spending: Spending = "obrien-fleming"
) -> NDArray[np.float64]:
    """Two-sided bounds on |z| at each look, float64 [K].

    Each side spends half. obrien-fleming: a(t) = 4 - 4 Phi(z_{1-alpha/4}/sqrt(t)); pocock:
    a(t) = alpha log(1 + (e - 1) t).
    Raises UsageError unless the fractions ascend within (0, 1].
    """
    t = np.asarray(fractions, dtype=np.float64)
    if t.size == 0 or t[0] <= 0 or t[-1] > 1 or (np.diff(t) <= 0).any():
        raise UsageError("information fractions must ascend within (0, 1]", where="fractions", found=list(t))
    if spending == "obrien-fleming":
        spent = 4 * stats.norm.sf(stats.norm.ppf(1 - alpha / 4) / np.sqrt(t))
    else:
        spent = alpha * np.log1p((np.e - 1) * t)
    bounds = np.empty(t.size)
    bounds[0] = stats.norm.ppf(1 - spent[0] / 2)
    # density of the path S = z sqrt(t) among those that have not crossed yet
    grid = np.linspace(-1, 1, _GRID) * bounds[0] * np.sqrt(t[0])
    density = stats.norm.pdf(grid, scale=np.sqrt(t[0]))
    for j in range(1, t.size):
        step = np.sqrt(t[j] - t[j - 1])
        weights = np.full(_GRID, grid[1] - grid[0])
        weights[[0, -1]] /= 2
        mass = density * weights
        wanted = spent[j] - spent[j - 1]

        def crossing(
            bound: float, here: float = t[j], grid: NDArray[np.float64] = grid,
            mass: NDArray[np.float64] = mass, step: float = step,
        ) -> float:  # fmt: skip
            edge = bound * np.sqrt(here)
            return float(mass @ (stats.norm.sf((edge - grid) / step) + stats.norm.cdf((-edge - grid) / step)))

        low, high = 0.0, 10.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if crossing(middle) > wanted else (low, middle)
        bounds[j] = high
        if j + 1 < t.size:
            finer = np.linspace(-1, 1, _GRID) * high * np.sqrt(t[j])
            density = np.array([mass @ stats.norm.pdf(x - grid, scale=step) for x in finer])
            grid = finer
    return bounds


def look_levels(
    looks: Sequence[int], *, alpha: float = 0.05, spending: Spending = "obrien-fleming"
) -> NDArray[np.float64]:
    """Level of a two-sided test at each look after ``looks`` runs, so that all of them together keep
    ``alpha``.

    The bounds on |z| at fractions looks/looks[-1], as p values. Where users are sampled too, more of the
    information is there at an early look than the share of the runs says; the looks are then more alike than
    the bounds assume, and the level is kept with room to spare. Raises UsageError unless looks ascend.
    """
    if not looks or any(look < 2 for look in looks):
        raise UsageError(
            "a look needs at least two runs a system",
            where="looks",
            found=list(looks),
            expected="e.g. 3, 5, 10",
        )
    bounds = spending_bounds([look / max(looks) for look in looks], alpha=alpha, spending=spending)
    return np.asarray(2 * stats.norm.sf(bounds))
