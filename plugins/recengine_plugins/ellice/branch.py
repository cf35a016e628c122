"""Categories, allowed values and whole numbers: branch and bound over an exact relaxation.

A node narrows the bounds of one person. Its relaxation (indicator columns anywhere in [0, 1] with sum 1,
values anywhere between the least and the greatest) bounds every completion from below. Nodes of all people
are relaxed together, one batch a round, best nodes of each person first: several where few people are left.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from recengine.recourse import Constraints
from recengine_plugins.ellice.region import Relaxation

Array = NDArray[np.float64]
_WHOLE = 1e-7
_TOGETHER = 64  # so many nodes are relaxed at once, also when few people are left


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
    relax: Relaxation,
    people: Array,
    constraints: Constraints,
    low: Array,
    high: Array,
    *,
    rows: NDArray[np.int64] | None = None,
    most_nodes: int = 2000,
) -> BranchSolution:
    """Cheapest robust points within low <= x <= high [n, d] that also respect what is discrete.

    A category changes as a whole: exactly one of its columns is 1. A value that is not among the allowed ones
    or not whole may stay. ``most_nodes`` bounds the search of one person; beyond it the best point found is
    returned with the bound that is left. rows [n]: who ``people`` are to ``relax``; default 0 .. n - 1.
    """
    n = len(people)
    who = np.arange(n) if rows is None else rows
    fresh, ids = _relax(relax, who, [(i, low[i], high[i]) for i in range(n)], count())
    heaps: list[list[_Node]] = [[] for _ in range(n)]
    for node in fresh:
        heaps[node.person].append(node)
    best, cost = np.full_like(people, np.nan), np.full(n, np.inf)
    expanded = np.zeros(n, np.int64)
    _dive(relax, who, fresh, people, constraints, best, cost)
    while True:
        children: list[tuple[int, Array, Array]] = []
        width = max(1, _TOGETHER // max(sum(map(bool, heaps)), 1))
        for person in range(n):
            heap, opened = heaps[person], 0
            while heap and opened < width and expanded[person] < most_nodes:
                node = heapq.heappop(heap)
                if node.bound >= cost[person] * (1 - 1e-12):
                    heap.clear()
                    break
                split = _violated(node, people[person], constraints)
                if split is None:
                    best[person] = _snapped(node.x, people[person], constraints)
                    cost[person] = float(relax.cost(best[person][None], people[person][None])[0])
                    continue
                expanded[person] += 1
                opened += 1
                children += [(person, *bounds) for bounds in split]
        if not children:
            break
        fresh, ids = _relax(relax, who, children, ids)
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
    relax: Relaxation, who: NDArray[np.int64], nodes: list[tuple[int, Array, Array]], ids: count[int]
) -> tuple[list[_Node], count[int]]:
    rows = np.array([person for person, _, _ in nodes], dtype=np.int64)
    if not rows.size:
        return [], ids
    low = np.stack([bounds for _, bounds, _ in nodes])
    high = np.stack([bounds for _, _, bounds in nodes])
    found = relax(who[rows], low, high)
    made = [
        _Node(float(found.bound[k]), next(ids), int(rows[k]), low[k], high[k], found.points[k])
        for k in np.flatnonzero(found.feasible)
    ]
    return made, ids


def _dive(
    relax: Relaxation,
    who: NDArray[np.int64],
    nodes: list[_Node],
    people: Array,
    constraints: Constraints,
    best: Array,
    cost: Array,
) -> None:
    """First answers: round every relaxed point further the way it moves, and optimise what is left."""
    low = np.stack([node.low for node in nodes]) if nodes else np.zeros((0, people.shape[1]))
    high = low.copy()
    rows = np.array([node.person for node in nodes], dtype=np.int64)
    for k, node in enumerate(nodes):
        low[k], high[k] = _rounded(node, people[node.person], constraints)
    keep = (low <= high).all(axis=1)
    rows, low, high = rows[keep], low[keep], high[keep]
    if not rows.size:
        return
    found = relax(who[rows], low, high)
    for k in np.flatnonzero(found.feasible):
        person = int(rows[k])
        x = _snapped(found.points[k], people[person], constraints)
        value = float(relax.cost(x[None], people[person][None])[0])
        if value < cost[person]:
            best[person], cost[person] = x, value


def _rounded(node: _Node, person: Array, constraints: Constraints) -> tuple[Array, Array]:
    """The node's bounds with everything discrete fixed at or beyond its relaxed value."""
    low, high = node.low.copy(), node.high.copy()
    for group in constraints.groups:
        x = node.x[group].copy()
        x[int(np.argmax(person[group]))] -= 1 - 1e-6  # another level as soon as it is used at all
        only = np.zeros(len(group))
        only[int(np.argmax(x))] = 1.0
        low[group] = high[group] = only
    for feature, values in constraints.allowed.items():
        low[feature] = high[feature] = _beyond(node, person, feature, np.append(values, person[feature]))
    for at in np.flatnonzero(constraints.integer):
        x = float(node.x[at])
        options = np.array([np.floor(x + 1e-9), np.ceil(x - 1e-9), person[at]])
        low[at] = high[at] = _beyond(node, person, int(at), options)
    return low, high


def _beyond(node: _Node, person: Array, feature: int, options: Array) -> float:
    """The nearest option on the far side of the relaxed value, else the nearest one within the bounds."""
    x, own = float(node.x[feature]), float(person[feature])
    options = options[(options >= node.low[feature]) & (options <= node.high[feature])]
    if not options.size:
        return x
    slack = 1e-9 * max(1.0, abs(x))
    far = options[options >= x - slack] if x >= own else options[options <= x + slack]
    options = far if far.size else options
    return float(options[np.argmin(np.abs(options - x))])


def _snapped(x: Array, person: Array, constraints: Constraints) -> Array:
    """The point with its settled categories and whole numbers free of rounding."""
    x = x.copy()
    for group in constraints.groups:
        x[group] = np.round(x[group])
    for feature in np.flatnonzero(constraints.integer):
        if x[feature] != person[feature]:
            x[feature] = np.round(x[feature])
    for feature, values in constraints.allowed.items():
        options = np.append(values, person[feature])
        x[feature] = options[np.argmin(np.abs(options - x[feature]))]
    return x


def _violated(node: _Node, person: Array, constraints: Constraints) -> list[tuple[Array, Array]] | None:
    """Bounds of the children that settle one unsettled category or value; None when all are settled."""
    for group in constraints.groups:
        x = node.x[group]
        if np.abs(x - np.round(x)).max() < _WHOLE and abs(x.sum() - 1) < _WHOLE:
            continue
        own = int(np.argmax(person[group]))
        spread = np.where(np.arange(len(group)) == own, 0.0, np.minimum(x, 1 - x))
        level = int(np.argmax(spread))
        chosen, refused = node.low.copy(), node.high.copy()
        only = np.zeros(len(group))
        only[level] = 1.0
        chosen[group] = only
        high = node.high.copy()
        high[group] = only
        refused[group[level]] = 0.0
        return [(chosen, high), (node.low.copy(), refused)]
    for feature, values in constraints.allowed.items():
        x = node.x[feature]
        if np.abs(np.append(values, person[feature]) - x).min() < _WHOLE:
            continue
        below, above = values[values < x], values[values > x]
        return _split(
            node,
            feature,
            float(person[feature]),
            float(below[-1]) if below.size else -np.inf,
            float(above[0]) if above.size else np.inf,
        )
    for at in np.flatnonzero(constraints.integer):
        value, own = float(node.x[at]), float(person[at])
        if min(abs(value - np.round(value)), abs(value - own)) < _WHOLE * max(1.0, abs(value)):
            continue
        return _split(node, int(at), own, float(np.floor(value)), float(np.ceil(value)))
    return None


def _split(node: _Node, feature: int, stay: float, below: float, above: float) -> list[tuple[Array, Array]]:
    """Bounds of the children that keep one feature at most ``below``, at least ``above``, or where it was
    (when that lies in between, or is no value of its own)."""
    children = []
    if below < stay < above and node.low[feature] < node.high[feature]:
        children.append(_held(node, feature, stay, stay))
    if below >= node.low[feature]:
        children.append(_held(node, feature, float(node.low[feature]), below))
    if above <= node.high[feature]:
        children.append(_held(node, feature, above, float(node.high[feature])))
    return children


def _held(node: _Node, feature: int, least: float, most: float) -> tuple[Array, Array]:
    low, high = node.low.copy(), node.high.copy()
    low[feature], high[feature] = least, most
    return low, high
