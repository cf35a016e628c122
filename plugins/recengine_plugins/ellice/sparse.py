"""Recourse that changes the fewest things, with a proof or the gap that is left.

A thing is a feature, a whole category, or features that are linked. All sets of one, two, three, ... things
are tried exactly while that stays affordable, for everybody at once. For who needs more, things are reverted
from the dense answer, least change first, as long as a robust point remains: that count is an upper bound.
The lower bound is the better of the sets tried and of a count by the centre model alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from recengine.recourse import Constraints

Array = NDArray[np.float64]
Solve = Callable[[NDArray[np.int64], Array, Array], tuple[Array, Array]]
"""People (indices) and bounds [n, d] to points [n, d] (NaN where none) and costs [n] (inf where none)."""
MOST_SETS = 4000


@dataclass(frozen=True)
class SparseSolution:
    """points [N, d], changed and proved_least [N] (equal: the count is proved minimal), cost [N]."""

    points: Array
    changed: NDArray[np.int64]
    proved_least: NDArray[np.int64]
    cost: Array
    feasible: NDArray[np.bool_]


def things(constraints: Constraints) -> list[NDArray[np.int64]]:
    """The features of each thing that changes as one."""
    if not constraints.groups and not constraints.links:
        return list(np.arange(len(constraints.names))[:, None])
    parent = list(range(len(constraints.names)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for group in constraints.groups:
        for i in group[1:]:
            parent[root(int(i))] = root(int(group[0]))
    for i, j, _ in constraints.links:
        parent[root(j)] = root(i)
    roots = np.array([root(i) for i in range(len(parent))])
    return [np.flatnonzero(roots == r) for r in dict.fromkeys(roots)]


def count_changed(points: Array, people: Array, units: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """How many things differ, [N]."""
    moved = points != people
    alone = np.array([int(unit[0]) for unit in units if len(unit) == 1], dtype=np.int64)
    count = np.count_nonzero(moved[:, alone], axis=1).astype(np.int64)
    for unit in units:
        if len(unit) > 1:
            count += moved[:, unit].any(axis=1)
    return count


def solve_sparse(
    solve: Solve,
    people: Array,
    units: list[NDArray[np.int64]],
    low: Array,
    high: Array,
    gain: Array,
    need: Array,
    most_sets: int = MOST_SETS,
) -> SparseSolution:
    """Fewest changed things within low <= x <= high; the cheapest such set where all are tried.

    gain [N, units]: upper bounds of what one thing alone can add to the logit; need [N]: what is missing.
    most_sets: so many sets are tried beyond pairs.
    """
    n = len(people)
    best, cost = np.full_like(people, np.nan), np.full(n, np.inf)
    changed, proved = np.zeros(n, np.int64), np.zeros(n, np.int64)
    everybody = np.arange(n)
    still = solve(everybody, people, people)
    stays = np.isfinite(still[1])
    best[stays], cost[stays] = people[stays], 0.0
    movable = [k for k, unit in enumerate(units) if (low[:, unit] < high[:, unit]).any()]
    least = _fewest(gain, need)
    for size in _affordable(len(movable), most_sets):
        todo = np.flatnonzero(~np.isfinite(cost))
        if todo.size == 0:
            break
        for chosen in combinations(movable, size):
            enough = gain[todo][:, chosen].sum(axis=1) >= need[todo]
            rows = todo[enough]
            if rows.size == 0:
                continue
            at = np.concatenate([units[k] for k in chosen])
            least_bound, most_bound = people[rows].copy(), people[rows].copy()
            least_bound[:, at], most_bound[:, at] = low[rows][:, at], high[rows][:, at]
            points, costs = solve(rows, least_bound, most_bound)
            better = costs < cost[rows]
            best[rows[better]], cost[rows[better]] = points[better], costs[better]
        solved = todo[np.isfinite(cost[todo])]
        changed[solved] = proved[solved] = size
        proved[np.flatnonzero(~np.isfinite(cost))] = size + 1
    todo = np.flatnonzero(~np.isfinite(cost))
    if todo.size:
        points, costs = revert(solve, people, todo, units, low, high)
        ok = np.isfinite(costs)
        best[todo[ok]], cost[todo[ok]] = points[ok], costs[ok]
        counts = count_changed(points[ok], people[todo[ok]], units)
        changed[todo[ok]] = counts
        proved[todo[ok]] = np.minimum(counts, np.maximum(proved[todo[ok]], least[todo[ok]]))
    feasible = np.isfinite(cost)
    return SparseSolution(best, changed, proved, np.where(feasible, cost, np.nan), feasible)


def _affordable(movable: int, most_sets: int) -> Iterator[int]:
    """Sizes whose sets can all be tried."""
    spent = 0
    for size in range(1, movable + 1):
        spent += comb(movable, size)
        if size > 2 and spent > most_sets:
            return
        yield size


def _fewest(gain: Array, need: Array) -> NDArray[np.int64]:
    """The least number of things whose gains can add up to the need."""
    best = np.cumsum(-np.sort(-np.maximum(gain, 0.0), axis=1), axis=1)
    enough = best >= need[:, None]
    return np.where(enough.any(axis=1), enough.argmax(axis=1) + 1, gain.shape[1]).astype(np.int64)


def revert(
    solve: Solve,
    people: Array,
    who: NDArray[np.int64],
    units: list[NDArray[np.int64]],
    low: Array,
    high: Array,
) -> tuple[Array, Array]:
    """Points and costs for ``who``: the dense answer, then things put back singly, least change first."""
    low, high = low[who].copy(), high[who].copy()
    points, costs = solve(who, low, high)
    reach = np.maximum(np.nan_to_num(np.abs(points - people[who])).max(axis=0, initial=0.0), 1e-300)
    tried = np.zeros((len(who), len(units)), bool)
    tried[~np.isfinite(costs)] = True
    while not tried.all():
        moved = np.abs(points - people[who]) / reach
        move = np.stack([moved[:, unit].max(axis=1) for unit in units], axis=1)
        candidate = np.argmin(np.where(tried, np.inf, move), axis=1)
        rows = np.flatnonzero(~tried.all(axis=1))
        narrow_low, narrow_high = low[rows].copy(), high[rows].copy()
        for k, row in enumerate(rows):
            unit = units[candidate[row]]
            narrow_low[k, unit] = narrow_high[k, unit] = people[who[row], unit]
        found, cost = solve(who[rows], narrow_low, narrow_high)
        ok = np.isfinite(cost)
        kept = rows[ok]
        points[kept], costs[kept] = found[ok], cost[ok]
        low[kept], high[kept] = narrow_low[ok], narrow_high[ok]
        tried[rows, candidate[rows]] = True
    return points, costs
