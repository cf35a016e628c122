"""Categories and allowed values: branch and bound over the exact relaxation of ``box``.

A node narrows the bounds of one person. Its relaxation (indicator columns anywhere in [0, 1], allowed values
anywhere between the least and the greatest) bounds every completion from below. Nodes of all people are
relaxed together, one batch a round, best node of each person first.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from recengine.recourse import Constraints
from recengine_plugins.ellice.box import solve_box
from recengine_plugins.ellice.rashomon import Ellipsoid

Array = NDArray[np.float64]
_WHOLE = 1e-9


@dataclass(order=True)
class _Node:
    bound: float
    order: int
    person: int = field(compare=False)
    low: Array = field(compare=False)
    high: Array = field(compare=False)
    x: Array = field(compare=False)


@dataclass(frozen=True)
class BranchSolution:
    """points [N, d] (NaN where infeasible), cost and bound [N]; gap 0 where the search was exhausted."""

    points: Array
    cost: Array
    bound: Array
    feasible: NDArray[np.bool_]
    complete: NDArray[np.bool_]


def solve_discrete(
    ellipsoid: Ellipsoid, people: Array, constraints: Constraints, *, tau: float, most_nodes: int = 2000
) -> BranchSolution:
    """Cheapest robust points that also respect categories and allowed values.

    A category changes as a whole: exactly one of its columns is 1. A value that is not among the allowed ones
    may stay. ``most_nodes`` bounds the search of one
    person; beyond it the best point found is returned with the bound that is left.
    """
    n = len(people)
    weights = constraints.cost
    low, high = constraints.bounds(people)
    fresh, ids = _relax(ellipsoid, people, weights, [(i, low[i], high[i]) for i in range(n)], tau, count())
    heaps: list[list[_Node]] = [[] for _ in range(n)]
    for node in fresh:
        heaps[node.person].append(node)
    best, cost = np.full_like(people, np.nan), np.full(n, np.inf)
    expanded = np.zeros(n, np.int64)
    while True:
        children: list[tuple[int, Array, Array]] = []
        for person in range(n):
            heap = heaps[person]
            while heap and expanded[person] < most_nodes:
                node = heapq.heappop(heap)
                if node.bound >= cost[person] * (1 - 1e-12):
                    heap.clear()
                    break
                split = _violated(node, people[person], constraints)
                if split is None:
                    best[person] = node.x
                    cost[person] = float(np.square(node.x - people[person]) @ weights)
                    continue
                expanded[person] += 1
                children += [(person, *bounds) for bounds in split]
                break
        if not children:
            break
        fresh, ids = _relax(ellipsoid, people, weights, children, tau, ids)
        for node in fresh:
            heapq.heappush(heaps[node.person], node)
    open_bound = np.array([min((node.bound for node in heap), default=np.inf) for heap in heaps])
    feasible = np.isfinite(cost)
    complete = open_bound >= cost * (1 - 1e-12)
    return BranchSolution(
        best,
        np.where(feasible, cost, np.nan),
        np.where(feasible, np.minimum(cost, open_bound), np.nan),
        feasible,
        complete | ~np.isfinite(open_bound),
    )


def _relax(
    ellipsoid: Ellipsoid,
    people: Array,
    weights: Array,
    nodes: list[tuple[int, Array, Array]],
    tau: float,
    ids: count[int],
) -> tuple[list[_Node], count[int]]:
    rows = np.array([person for person, _, _ in nodes])
    low = np.stack([bounds for _, bounds, _ in nodes])
    high = np.stack([bounds for _, _, bounds in nodes])
    found = solve_box(ellipsoid, people[rows], weights, low, high, tau=tau)
    made = [
        _Node(float(found.bound[k]), next(ids), int(rows[k]), low[k], high[k], found.points[k])
        for k in np.flatnonzero(found.feasible)
    ]
    return made, ids


def _violated(node: _Node, person: Array, constraints: Constraints) -> list[tuple[Array, Array]] | None:
    """Bounds of the children that settle one unsettled category or value; None when all are settled."""
    for group in constraints.groups:
        x = node.x[group]
        if np.abs(x - np.round(x)).max() < _WHOLE and abs(x.sum() - 1) < _WHOLE:
            continue
        children = []
        for level in range(len(group)):
            low, high = node.low.copy(), node.high.copy()
            indicator = np.zeros(len(group))
            indicator[level] = 1.0
            if (indicator < node.low[group] - _WHOLE).any() or (indicator > node.high[group] + _WHOLE).any():
                continue
            low[group] = high[group] = indicator
            children.append((low, high))
        return children
    for feature, values in constraints.allowed.items():
        x = node.x[feature]
        options = values if x != person[feature] else np.append(values, person[feature])
        if np.abs(options - x).min() < _WHOLE:
            continue
        children = []
        stay = person[feature]
        if node.low[feature] < node.high[feature] and node.low[feature] <= stay <= node.high[feature]:
            low, high = node.low.copy(), node.high.copy()
            low[feature] = high[feature] = stay
            children.append((low, high))
        below, above = values[values < x], values[values > x]
        if below.size and below[-1] >= node.low[feature]:
            low, high = node.low.copy(), node.high.copy()
            high[feature] = below[-1]
            children.append((low, high))
        if above.size and above[0] <= node.high[feature]:
            low, high = node.low.copy(), node.high.copy()
            low[feature] = above[0]
            children.append((low, high))
        return children
    return None
