"""Recourse that changes the fewest features, with a proof or the gap that is left.

All sets of one and of two features are tried exactly, for everybody at once. For who needs more, features
are reverted from the dense answer, least change first, as long as a robust point remains; the count found is
an upper bound, three a proved lower one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from recengine_plugins.ellice.box import solve_box
from recengine_plugins.ellice.rashomon import Ellipsoid

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SparseSolution:
    """points [N, d], changed and proved_least [N] (equal: the count is proved minimal), cost [N]."""

    points: Array
    changed: NDArray[np.int64]
    proved_least: NDArray[np.int64]
    cost: Array
    feasible: NDArray[np.bool_]


def solve_sparse(
    ellipsoid: Ellipsoid, people: Array, weights: Array, low: Array, high: Array, *, tau: float
) -> SparseSolution:
    """Fewest changed features within low <= x <= high; among sets of that size the cheapest (size <= 2)."""
    n = len(people)
    best, cost = np.full_like(people, np.nan), np.full(n, np.inf)
    changed, proved = np.zeros(n, np.int64), np.zeros(n, np.int64)
    accepted = ellipsoid.worst_logit(np.c_[people, np.ones(n)]) >= tau
    best[accepted], cost[accepted] = people[accepted], 0.0
    movable = (low < high).any(axis=0)
    for size in (1, 2):
        todo = np.flatnonzero(~np.isfinite(cost))
        if todo.size == 0:
            break
        for chosen in combinations(np.flatnonzero(movable), size):
            held_low, held_high = people[todo].copy(), people[todo].copy()
            held_low[:, chosen], held_high[:, chosen] = low[todo][:, chosen], high[todo][:, chosen]
            reach = _best_reach(ellipsoid, people[todo], held_low, held_high) >= tau
            rows = todo[reach]
            if rows.size == 0:
                continue
            found = solve_box(ellipsoid, people[rows], weights, held_low[reach], held_high[reach], tau=tau)
            better = found.feasible & (found.cost < cost[rows])
            best[rows[better]], cost[rows[better]] = found.points[better], found.cost[better]
        solved = todo[np.isfinite(cost[todo])]
        changed[solved] = proved[solved] = size
    todo = np.flatnonzero(~np.isfinite(cost))
    if todo.size:
        points, counts = _revert(ellipsoid, people[todo], weights, low[todo], high[todo], tau)
        ok = np.isfinite(points).all(axis=1)
        best[todo[ok]] = points[ok]
        cost[todo[ok]] = np.square(points[ok] - people[todo[ok]]) @ weights
        changed[todo[ok]], proved[todo[ok]] = counts[ok], np.minimum(counts[ok], 3)
    feasible = np.isfinite(cost)
    return SparseSolution(best, changed, proved, np.where(feasible, cost, np.nan), feasible)


def _best_reach(ellipsoid: Ellipsoid, people: Array, low: Array, high: Array) -> Array:
    """An upper bound of the worst logit within the bounds: the centre model's best corner."""
    w, b = ellipsoid.theta[:-1], ellipsoid.theta[-1]
    corner = np.where(w > 0, high, low)
    free = low < high
    corner = np.where(free, corner, people)
    with np.errstate(invalid="ignore"):
        terms = np.where(w == 0, 0.0, corner * w)
    return np.asarray(terms.sum(axis=1) + b)


def _revert(
    ellipsoid: Ellipsoid, people: Array, weights: Array, low: Array, high: Array, tau: float
) -> tuple[Array, NDArray[np.int64]]:
    """Dense answer, then features put back one at a time, least weighted change first."""
    n = len(people)
    dense = solve_box(ellipsoid, people, weights, low, high, tau=tau)
    points, low, high = dense.points.copy(), low.copy(), high.copy()
    tried = low == high
    tried[~dense.feasible] = True
    while not tried.all():
        move = np.where(tried, np.inf, np.square(points - people) * weights)
        candidate = np.argmin(move, axis=1)
        rows = np.flatnonzero(~tried.all(axis=1))
        at = candidate[rows]
        narrow_low, narrow_high = low[rows].copy(), high[rows].copy()
        index = np.arange(len(rows))
        narrow_low[index, at] = narrow_high[index, at] = people[rows, at]
        found = solve_box(ellipsoid, people[rows], weights, narrow_low, narrow_high, tau=tau)
        kept = rows[found.feasible]
        points[kept] = found.points[found.feasible]
        low[kept], high[kept] = narrow_low[found.feasible], narrow_high[found.feasible]
        tried[rows, at] = True
    counts = (points != people).sum(axis=1) if n else np.zeros(0, np.int64)
    return points, counts
