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
        return BranchSolution(found.points, found.cost, found.bound, found.feasible, ~found.undecided)
    if isinstance(relax, EllipsoidRelaxation):
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
    near = sharpened(near, limits, low, high, who)
    first = solve_discrete(near, people, limits, low, high, rows=who, most_nodes=most_nodes)
    for k in range(n):  # an answer to fall back on, and the cuts of the problem without anything discrete
        if first.feasible[k] and not _add(relax, int(who[k]), first.points[k]):
            points[k], cost[k] = first.points[k], first.cost[k]
    root = relax(who, low, high)
    nodes = max(1, most_nodes // 10)
    same = np.flatnonzero(first.feasible & root.feasible) if limits.groups else np.zeros(0, np.int64)
    if same.size:  # the same levels first, where the tree is small
        at = limits.indicator
        held = (np.where(at, first.points[same], side[same]) for side in (low, high))
        had = np.where(np.isfinite(cost[same]), cost[same], np.inf)
        part = _in_turn(relax, people[same], limits, *held, who[same], nodes, points[same], had)
        better = part.feasible
        points[same[better]], cost[same[better]] = part.points[better], part.cost[better]
    todo = np.flatnonzero(root.feasible)
    complete[root.undecided] = False
    if todo.size:
        known = np.where(np.isfinite(cost[todo]), cost[todo], np.inf)
        whole = _in_turn(
            relax, people[todo], limits, low[todo], high[todo], who[todo], nodes, points[todo], known
        )
        points[todo], cost[todo], bound[todo] = whole.points, whole.cost, whole.bound
        complete[todo] = whole.complete
    return BranchSolution(points, cost, bound, np.isfinite(cost), complete)


def _in_turn(
    relax: CutRelaxation,
    people: Array,
    limits: Constraints,
    low: Array,
    high: Array,
    who: NDArray[np.int64],
    most_nodes: int,
    points: Array,
    known: Array,
) -> BranchSolution:
    """Trees and cuts in turn, from answers ``points`` [n, d] of cost ``known`` [n] (inf: none)."""
    n = len(people)
    points, cost = points.copy(), known.copy()
    bound, complete, left = np.zeros(n), np.ones(n, bool), np.full(n, most_nodes)
    todo = np.arange(n)
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
            most_nodes=left[todo],
            known=(points[todo], cost[todo]),
        )
        if tree.nodes is not None:
            left[todo] -= tree.nodes
        again = []
        for k, person in enumerate(todo):
            complete[person] = tree.complete[k]
            if not tree.feasible[k]:
                continue
            bound[person] = tree.bound[k]
            if not _add(relax, int(who[person]), tree.points[k]):
                points[person], cost[person] = tree.points[k], tree.cost[k]
                continue
            if np.isfinite(cost[person]):  # a deeper cut, half way to what is known to be accepted
                _add(relax, int(who[person]), (tree.points[k] + points[person]) / 2)
            if left[person] > 0:
                again.append(person)
            else:
                complete[person] = False
        todo = np.array(again, dtype=np.int64)
    complete[todo] = False
    feasible = np.isfinite(cost)
    return BranchSolution(
        points, np.where(feasible, cost, np.nan), np.where(feasible, bound, np.nan), feasible, complete
    )


def _add(relax: CutRelaxation, row: int, x: Array) -> bool:
    """Add the models that do not accept x as cuts; whether there were any."""
    bad = [model for worst, model in relax.worst_models(x) if worst < relax.tau * (1 - 1e-3)]
    relax.cuts.setdefault(row, []).extend(bad)
    return bool(bad)
