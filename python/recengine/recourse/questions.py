"""What people ask after the answer: why none, what stands in the way, what else could I do.

All of it works with any recourse method, by asking it again under changed constraints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from recengine.contracts.recourse import RecourseAnswer, RecourseMethod
from recengine.recourse.constraints import Constraints

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Conflict:
    """labels: rules that leave no recourse even when all others are lifted, while without any one of them
    there is one: a minimal set. of_itself: no point at all keeps them, whatever the classifier says."""

    labels: tuple[str, ...]
    of_itself: bool


def conflict(method: RecourseMethod, person: Array, constraints: Constraints) -> Conflict | None:
    """Why this person [d] has no recourse; None when there is one.

    Rules are lifted one after the other (deletion filter): what cannot be lifted without recourse appearing
    is the set. Empty labels: not the rules are to blame.
    """
    if not admissible(person, constraints):
        return Conflict(_minimal(constraints, lambda left: not admissible(person, left)), True)

    def none(left: Constraints) -> bool:
        return not np.isfinite(method.solve(person[None], left).points).all()

    if not none(constraints):
        return None
    if none(constraints.without(constraints.labels)):
        return Conflict((), False)
    return Conflict(_minimal(constraints, none), False)


def _minimal(constraints: Constraints, fails: Callable[[Constraints], bool]) -> tuple[str, ...]:
    """Labels that stay when every label is lifted that can be lifted with ``fails`` still true."""
    lifted: list[str] = []
    for label in constraints.labels:
        if fails(constraints.without([*lifted, label])):
            lifted.append(label)
    return tuple(label for label in constraints.labels if label not in lifted)


def admissible(person: Array, constraints: Constraints) -> bool:
    """Whether any point keeps the constraints of this person [d], by a mixed-integer feasibility problem."""
    d = len(person)
    low, high = (side[0] for side in constraints.bounds(person[None]))
    values = {i: np.append(options, person[i]) for i, options in constraints.allowed.items()}
    extra = sum(len(options) for options in values.values())
    n = d + extra
    rows: list[Array] = []
    least: list[float] = []
    most: list[float] = []

    def add(row: Array, at_least: float, at_most: float) -> None:
        rows.append(row)
        least.append(at_least)
        most.append(at_most)

    for row, limit in zip(constraints.A, constraints.b, strict=True):
        add(np.r_[row, np.zeros(extra)], -np.inf, float(limit))
    for i, j, ratio in constraints.links:
        row = np.zeros(n)
        row[j], row[i] = 1.0, -ratio
        add(row, float(row[:d] @ person), float(row[:d] @ person))
    for group in constraints.groups:
        row = np.zeros(n)
        row[group] = 1.0
        add(row, 1.0, 1.0)
    start = d
    for i, options in values.items():
        chosen = slice(start, start + len(options))
        one, value = np.zeros(n), np.zeros(n)
        one[chosen] = 1.0
        value[chosen], value[i] = options, -1.0
        add(one, 1.0, 1.0)
        add(value, 0.0, 0.0)
        start = chosen.stop
    whole = np.zeros(n)
    whole[:d] = constraints.indicator | (constraints.integer & (person == np.round(person)))
    whole[d:] = 1.0
    if not rows:
        return bool((low <= high).all())
    found = milp(
        np.zeros(n),
        constraints=LinearConstraint(np.stack(rows), least, most),
        bounds=Bounds(np.r_[low, np.zeros(extra)], np.r_[high, np.ones(extra)]),
        integrality=whole,
    )
    return bool(found.status != 2)


@dataclass(frozen=True)
class Price:
    """One rule, and what the change would cost without it."""

    label: str
    cost_without: float


def binding(
    method: RecourseMethod, person: Array, constraints: Constraints, cost: float, *, tolerance: float = 0.01
) -> list[Price]:
    """The rules without which this change would be cheaper (by a share of at least ``tolerance``), the most
    expensive rule first."""
    made = []
    for label in constraints.labels:
        answer = method.solve(person[None], constraints.without([label]))
        without = float(answer.costs[0])
        if np.isfinite(without) and without < cost * (1 - tolerance):
            made.append(Price(label, without))
    return sorted(made, key=lambda price: price.cost_without)


def diverse(
    method: RecourseMethod, person: Array, constraints: Constraints, k: int, *, share: float = 0.1
) -> list[RecourseAnswer]:
    """Up to ``k`` different ways for one person [d], the cheapest first.

    Each next way does without one of the things that carry at least ``share`` of the largest move of an
    earlier one; the cheapest such way comes next.
    """
    first = method.solve(person[None], constraints)
    waiting: list[tuple[float, frozenset[str], RecourseAnswer]] = []
    if np.isfinite(first.points).all():
        waiting.append((float(first.costs[0]), frozenset(), first))
    answers: list[RecourseAnswer] = []
    seen: set[frozenset[str]] = set()
    supports: set[frozenset[str]] = set()
    while waiting and len(answers) < k:
        waiting.sort(key=lambda one: one[0])
        _, blocked, answer = waiting.pop(0)
        support = _support(person, answer.points[0], constraints, share)
        if support not in supports:
            supports.add(support)
            answers.append(answer)
        for thing in sorted(support):
            wider = blocked | {thing}
            if wider in seen:
                continue
            seen.add(wider)
            found = method.solve(person[None], _frozen(constraints, wider))
            if np.isfinite(found.points).all():
                waiting.append((float(found.costs[0]), wider, found))
    return answers


def _support(person: Array, point: Array, constraints: Constraints, share: float) -> frozenset[str]:
    moved = np.abs(point - person) * constraints.cost
    least = share * float(moved.max(initial=0.0))
    return frozenset(constraints.thing(int(i)) for i in np.flatnonzero((moved > 0) & (moved >= least)))


def _frozen(constraints: Constraints, things: frozenset[str]) -> Constraints:
    held = np.array([constraints.thing(i) in things for i in range(len(constraints.names))])
    return replace(constraints, immutable=constraints.immutable | held)
