"""Any relaxation under any constraints: straight, by branch and bound, or by branch and bound under cuts.

A set of models known by its worst member (the true set, a drawn set) would cost a search for that member at
each node. Instead the whole tree is searched under the cuts known so far, the answer is tried, and its worst
model becomes a cut: the last answer is optimal for the whole set, as each tree bounds it from below.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recengine.recourse import Constraints
from recengine_plugins.ellice.box import BoxSolution
from recengine_plugins.ellice.branch import BranchSolution, solve_discrete
from recengine_plugins.ellice.region import CutRelaxation, EllipsoidRelaxation, Relaxation
from recengine_plugins.ellice.sharpen import sharpened

Array = NDArray[np.float64]
_TREES = 30


def solve_any(
    relax: Relaxation,
    people: Array,
    limits: Constraints,
    low: Array,
    high: Array,
    *,
    rows: NDArray[np.int64] | None = None,
    most_nodes: int = 2000,
) -> BranchSolution:
    """Cheapest accepted points of ``people`` [n, d] within the bounds and everything discrete.

    rows [n]: who ``people`` are to ``relax``; default 0 .. n - 1.
    """
    who = np.arange(len(people)) if rows is None else rows
    if not limits.discrete:
        found = relax(who, low, high)
        return BranchSolution(found.points, found.cost, found.bound, found.feasible, found.feasible)
    if isinstance(relax, EllipsoidRelaxation) and limits.groups:
        relax = sharpened(relax, limits, low, high, who)
    if not isinstance(relax, CutRelaxation):
        return solve_discrete(relax, people, limits, low, high, rows=who, most_nodes=most_nodes)
    return _by_cuts(relax, people, limits, low, high, who, most_nodes)


class _UnderCuts:
    """A set of models seen through the cuts found so far."""

    def __init__(self, whole: CutRelaxation) -> None:
        self.whole, self.problem = whole, whole.problem

    def __call__(self, rows: NDArray[np.int64], low: Array, high: Array) -> BoxSolution:
        return self.whole.under_cuts(rows, low, high)

    def cost(self, points: Array, people: Array) -> Array:
        return self.whole.cost(points, people)


def _by_cuts(
    relax: CutRelaxation,
    people: Array,
    limits: Constraints,
    low: Array,
    high: Array,
    who: NDArray[np.int64],
    most_nodes: int,
) -> BranchSolution:
    n = len(people)
    points, cost = np.full_like(people, np.nan), np.full(n, np.nan)
    bound, complete = np.full(n, np.nan), np.ones(n, bool)
    near = EllipsoidRelaxation(relax.problem, relax.people, relax.centre, relax.scale)
    first = solve_discrete(near, people, limits, low, high, rows=who, most_nodes=most_nodes)
    for k in range(n):  # an answer to fall back on, and the cuts of the problem without anything discrete
        if first.feasible[k] and not _add(relax, int(who[k]), first.points[k]):
            points[k], cost[k] = first.points[k], first.cost[k]
    root = relax(who, low, high)
    todo = np.flatnonzero(root.feasible)
    for _ in range(_TREES):
        if not todo.size:
            break
        tree = solve_discrete(
            _UnderCuts(relax),
            people[todo],
            limits,
            low[todo],
            high[todo],
            rows=who[todo],
            most_nodes=most_nodes,
        )
        again = []
        for k, person in enumerate(todo):
            if not tree.feasible[k]:
                complete[person] = tree.complete[k]
                continue
            if _add(relax, int(who[person]), tree.points[k]):
                if np.isfinite(cost[person]):  # a deeper cut, half way to what is known to be accepted
                    _add(relax, int(who[person]), (tree.points[k] + points[person]) / 2)
                bound[person] = tree.bound[k]
                again.append(person)
                continue
            points[person], cost[person] = tree.points[k], tree.cost[k]
            bound[person], complete[person] = tree.bound[k], tree.complete[k]
        todo = np.array(again, dtype=np.int64)
    complete[todo] = False
    return BranchSolution(points, cost, bound, np.isfinite(cost), complete)


def _add(relax: CutRelaxation, row: int, x: Array) -> bool:
    """Add the models that do not accept x as cuts; whether there were any."""
    bad = [model for worst, model in relax.worst_models(x) if worst < relax.tau * (1 - 1e-3)]
    relax.cuts.setdefault(row, []).extend(bad)
    return bool(bad)
