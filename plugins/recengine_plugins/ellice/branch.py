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
from recengine_plugins.ellice.dual import Prices
from recengine_plugins.ellice.pricing import narrowed
from recengine_plugins.ellice.region import Relaxation
from recengine_plugins.ellice.starts import Question, dive, settlements

Array = NDArray[np.float64]
_WHOLE = 1e-7
_TOGETHER = 64  # so many nodes are relaxed at once, also when few people are left
_AGAIN = (3, 10, 30, 100)  # rounds before which first answers are looked for again
_SETTLED = 200  # nodes for the whole numbers of settled categories


@dataclass(order=True)
class _Node:
    bound: float
    order: int
    person: int = field(compare=False)
    low: Array = field(compare=False)
    high: Array = field(compare=False)
    x: Array = field(compare=False)
    prices: Prices = field(compare=False)


@dataclass(frozen=True)
class BranchSolution:
    """points [N, d] (NaN where infeasible), cost and bound [N]; gap 0 where the search was exhausted; nodes
    [N] that were opened."""

    points: Array
    cost: Array
    bound: Array
    feasible: NDArray[np.bool_]
    complete: NDArray[np.bool_]
    nodes: NDArray[np.int64] | None = None


def solve_discrete(
    relax: Relaxation,
    people: Array,
    constraints: Constraints,
    low: Array,
    high: Array,
    *,
    rows: NDArray[np.int64] | None = None,
    most_nodes: int | NDArray[np.int64] = 2000,
    start: bool = True,
    known: tuple[Array, Array] | None = None,
) -> BranchSolution:
    """Cheapest robust points within low <= x <= high [n, d] that also respect what is discrete.

    A category changes as a whole: exactly one of its columns is 1. A value that is not among the allowed ones
    or not whole may stay. ``most_nodes`` bounds the search of one person; beyond it the best point found is
    returned with the bound that is left. rows [n]: who ``people`` are to ``relax``; default 0 .. n - 1.
    start: look for first answers by exchanging levels of categories, too. known: points [n, d] that are
    answers already, and their costs [n] (inf: none).
    """
    n = len(people)
    who = np.arange(n) if rows is None else rows
    search = _Search(relax, who, people, constraints)
    if known is not None:
        search.best[:], search.cost[:] = known
    most = np.broadcast_to(most_nodes, n)
    search.open([(i, low[i], high[i], 0.0) for i in range(n)])
    search.begin(low, high, exchange=start)
    expanded = np.zeros(n, np.int64)
    for turn in count(1):
        if start and constraints.groups and turn in _AGAIN:
            search.begin(low, high, exchange=True)  # from the nodes that are best now
        children: list[_Child] = []
        width = max(1, _TOGETHER // max(sum(map(bool, search.heaps)), 1))
        for person in range(n):
            heap, opened = search.heaps[person], 0
            while heap and opened < width and expanded[person] < most[person]:
                node = heapq.heappop(heap)
                if node.bound >= search.cost[person] * (1 - 1e-12):
                    heap.clear()
                    break
                split = _violated(node, people[person], constraints)
                if split is None:
                    x = _snapped(node.x, people[person], constraints)
                    search.better(person, x, float(relax.cost(x[None], people[person][None])[0]))
                    continue
                expanded[person] += 1
                opened += 1
                children += search.worthwhile(node, split)
        if not children:
            break
        search.open(children)
    best, cost = search.best, search.cost
    open_bound = np.array([min((node.bound for node in heap), default=np.inf) for heap in search.heaps])
    open_bound = np.minimum(open_bound, search.lost)
    feasible = np.isfinite(cost)
    complete = open_bound >= cost * (1 - 1e-12)
    return BranchSolution(
        best,
        np.where(feasible, cost, np.nan),
        np.where(feasible, np.minimum(cost, open_bound), np.nan),
        feasible,
        complete | ~np.isfinite(open_bound),
        expanded,
    )


class _Search:
    """The open nodes of everybody, and the best answer each has so far."""

    def __init__(
        self, relax: Relaxation, who: NDArray[np.int64], people: Array, constraints: Constraints
    ) -> None:
        self.relax, self.who, self.people, self.constraints = relax, who, people, constraints
        self.heaps: list[list[_Node]] = [[] for _ in people]
        self.best, self.cost = np.full_like(people, np.nan), np.full(len(people), np.inf)
        self.lost = np.full(len(people), np.inf)  # bounds of nodes that no solver could do
        self.ids = count()

    def better(self, person: int, x: Array, cost: float) -> None:
        if cost < self.cost[person]:
            self.best[person], self.cost[person] = x, cost

    def open(self, children: list[_Child]) -> None:
        """Relax the children, narrow them by their own prices, and keep those that may be better."""
        rows = np.array([person for person, *_ in children], dtype=np.int64)
        if not rows.size:
            return
        low = np.stack([child[1] for child in children])
        high = np.stack([child[2] for child in children])
        found = self.relax(self.who[rows], low, high)
        bound = np.maximum(found.bound, [child[3] for child in children])
        prices = found.prices or Prices.unknown(low)
        if found.prices is not None:
            after = narrowed(
                self.relax.problem, self.constraints, prices, self.people[rows], low, high, self.cost[rows]
            )
            low, high, bound = after.low, after.high, np.maximum(bound, after.bound)
        for k in np.flatnonzero(found.undecided):
            self.lost[rows[k]] = min(self.lost[rows[k]], children[k][3])
        for k in np.flatnonzero(found.feasible):
            if bound[k] < self.cost[rows[k]] * (1 - 1e-12):
                priced = Prices(prices.slope[k], prices.level[k])
                node = _Node(
                    float(bound[k]), next(self.ids), int(rows[k]), low[k], high[k], found.points[k], priced
                )
                heapq.heappush(self.heaps[node.person], node)

    def begin(self, low: Array, high: Array, *, exchange: bool) -> None:
        """Answers to start with, from the best open node of each person. exchange: of categories within low
        <= x <= high [n, d] first."""
        tops = [h[0] for h in self.heaps if h and h[0].bound < self.cost[h[0].person] * (1 - 1e-12)]
        if not exchange or not self.constraints.groups:
            asked = [self._question(node, node.low, node.high) for node in tops]
            for node, x in zip(tops, dive(self.relax, asked, self.constraints), strict=True):
                if x is not None:
                    person = self.people[node.person]
                    point = _snapped(x, person, self.constraints)
                    self.better(node.person, point, float(self.relax.cost(point[None], person[None])[0]))
            return
        asked = [self._question(node, low[node.person], high[node.person]) for node in tops]
        boxes = settlements(self.relax, asked, self.constraints.groups)
        if not boxes:
            return
        rows = np.array([node.person for node in tops])
        tree = solve_discrete(
            self.relax, self.people[rows], self.constraints, np.stack([box[0] for box in boxes]),
            np.stack([box[1] for box in boxes]), rows=self.who[rows], most_nodes=_SETTLED, start=False,
        )  # fmt: skip
        for k in np.flatnonzero(tree.feasible):
            self.better(int(rows[k]), tree.points[k], float(tree.cost[k]))

    def _question(self, node: _Node, low: Array, high: Array) -> Question:
        return Question(int(self.who[node.person]), self.people[node.person], node.x, low, high)

    def worthwhile(self, node: _Node, split: list[tuple[Array, Array]]) -> list[_Child]:
        """The children of a node that its prices do not rule out."""
        n = len(split)
        low, high = (np.stack([part[k] for part in split]) for k in (0, 1))
        bound = np.full(n, node.bound)
        if np.isfinite(node.prices.level):
            prices = Prices(np.tile(node.prices.slope, (n, 1)), np.full(n, node.prices.level))
            people = np.tile(self.people[node.person], (n, 1))
            known = np.full(n, self.cost[node.person])
            after = narrowed(self.relax.problem, self.constraints, prices, people, low, high, known)
            low, high, bound = after.low, after.high, np.maximum(bound, after.bound)
        good = (low <= high).all(axis=1) & (bound < self.cost[node.person] * (1 - 1e-12))
        return [(node.person, low[k], high[k], float(bound[k])) for k in np.flatnonzero(good)]


_Child = tuple[int, Array, Array, float]  # person, bounds, lower bound of the cost


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
