"""First answers for branch and bound: the better they are, the more of the tree is never opened.

Categories are settled as the relaxation leans, or as they are, then single levels are exchanged while that
makes the settled problem cheaper. Values and whole numbers go the dearest unit first, each to the nearest
option (else the one beyond), with what is left optimised again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recengine.recourse import Constraints
from recengine_plugins.ellice.region import Relaxation

Array = NDArray[np.float64]
Box = tuple[Array, Array]
_EXCHANGES = 8  # rounds of exchanging single levels


@dataclass(frozen=True)
class Question:
    """Row ``who`` of the relaxation, the ``person`` [d], bounds low <= x <= high [d], the relaxed point x."""

    who: int
    person: Array
    x: Array
    low: Array
    high: Array


def settlements(relax: Relaxation, asked: list[Question], groups: tuple[NDArray[np.int64], ...]) -> list[Box]:
    """For each question the bounds with every category settled; its own bounds where nothing was found."""
    made = [_Settling(question, groups) for question in asked]
    going = _cheapest(relax, [(one, levels) for one in made for levels in (one.leaning(), one.own())])
    for _ in range(_EXCHANGES):
        if not going:
            break
        going = _cheapest(relax, [(one, levels) for one in going for levels in one.exchanges()])
    return [one.box(one.levels) or (one.asked.low, one.asked.high) for one in made]


@dataclass(eq=False)
class _Settling:
    """The best settlement of one person's categories so far: a level a category, and its relaxed cost."""

    asked: Question
    groups: tuple[NDArray[np.int64], ...]
    levels: tuple[int, ...] = ()
    cost: float = field(default=np.inf)

    def own(self) -> tuple[int, ...]:
        return tuple(int(np.argmax(self.asked.person[group])) for group in self.groups)

    def leaning(self) -> tuple[int, ...]:
        """Another level as soon as it is used at all."""
        made = []
        for group, own in zip(self.groups, self.own(), strict=True):
            other = self.asked.x[group].copy()
            other[own] = 0.0
            made.append(int(np.argmax(other)) if other.max() > 1e-6 else own)
        return tuple(made)

    def exchanges(self) -> list[tuple[int, ...]]:
        return [
            (*self.levels[:g], level, *self.levels[g + 1 :])
            for g, group in enumerate(self.groups)
            for level in range(len(group))
            if level != self.levels[g] and self.asked.high[group[level]] > 0.5
        ]

    def box(self, levels: tuple[int, ...]) -> Box | None:
        """The bounds with these levels; None where one of them is closed, or none were found."""
        low, high = self.asked.low.copy(), self.asked.high.copy()
        if len(levels) != len(self.groups):
            return None
        for group, level in zip(self.groups, levels, strict=True):
            only = np.eye(len(group))[level]
            if (only < low[group]).any() or (only > high[group]).any():
                return None
            low[group] = high[group] = only
        return low, high


def _cheapest(relax: Relaxation, tries: list[tuple[_Settling, tuple[int, ...]]]) -> list[_Settling]:
    """Keep the best settlement of each person; for whom one of these was better."""
    boxes = [(one, levels, box) for one, levels in tries if (box := one.box(levels)) is not None]
    if not boxes:
        return []
    found = relax(
        np.array([one.asked.who for one, *_ in boxes]),
        np.stack([low for *_, (low, _) in boxes]),
        np.stack([high for *_, (_, high) in boxes]),
    )
    moved: dict[int, _Settling] = {}
    for k in np.flatnonzero(found.feasible):
        one, levels, _ = boxes[k]
        if found.cost[k] < one.cost * (1 - 1e-9):
            one.levels, one.cost = levels, float(found.cost[k])
            moved[id(one)] = one
    return list(moved.values())


def dive(relax: Relaxation, asked: list[Question], limits: Constraints) -> list[Array | None]:
    """A point that is whole in everything for each question, where one was found."""
    if not asked:
        return []
    state = _Dive(relax, asked)
    for group in limits.groups:
        leaning = state.x[:, group].copy()
        own = state.people[:, group].argmax(axis=1)
        leaning[np.arange(len(own)), own] -= 1 - 1e-6  # another level as soon as it is used at all
        state.hold([np.eye(len(group))[leaning.argmax(axis=1)]], group)
    steps = [int(i) for i in np.flatnonzero(limits.integer) if i not in limits.allowed]
    price = relax.problem.square + relax.problem.absolute
    for i in sorted([*steps, *limits.allowed], key=lambda i: -price[i]):
        near, beyond = state.options(i, limits.allowed.get(i))
        state.hold([near[:, None], beyond[:, None]], np.array([i]))
    return [state.x[k] if state.alive[k] else None for k in range(len(asked))]


class _Dive:
    """Relaxed points x [n, d] and the bounds they are held to."""

    def __init__(self, relax: Relaxation, asked: list[Question]) -> None:
        self.relax, self.who = relax, np.array([one.who for one in asked])
        self.people, self.x = (np.stack([getattr(one, part) for one in asked]) for part in ("person", "x"))
        self.low, self.high = (np.stack([getattr(one, part) for one in asked]) for part in ("low", "high"))
        self.alive = np.ones(len(asked), bool)

    def hold(self, tries: list[Array], at: NDArray[np.int64]) -> None:
        """Fix the features ``at`` to the first of the ``tries`` [n, k] that leaves an answer."""
        left = np.flatnonzero(self.alive)
        for values in tries:
            low, high = self.low[left].copy(), self.high[left].copy()
            low[:, at] = high[:, at] = values[left]
            inside = ((low >= self.low[left]) & (high <= self.high[left])).all(axis=1)
            some, low, high = left[inside], low[inside], high[inside]
            if some.size:
                found = self.relax(self.who[some], low, high)
                good = found.feasible
                went = some[good]
                self.x[went], self.low[went], self.high[went] = found.points[good], low[good], high[good]
                left = np.setdiff1d(left, went)
        self.alive[left] = False

    def options(self, i: int, values: Array | None) -> tuple[Array, Array]:
        """Of feature i: the option nearest to x, and the nearest on its far side (seen from the person)."""
        near, beyond = self.x[:, i].copy(), self.x[:, i].copy()
        for k, (at, stay) in enumerate(zip(self.x[:, i], self.people[:, i], strict=True)):
            whole = np.array([np.floor(at + 1e-9), np.ceil(at - 1e-9)]) if values is None else values
            options = np.append(whole, stay)
            options = options[(options >= self.low[k, i]) & (options <= self.high[k, i])]
            if not options.size:
                continue
            near[k] = options[np.argmin(np.abs(options - at))]
            slack = 1e-9 * max(1.0, abs(at))
            far = options[options >= at - slack] if at >= stay else options[options <= at + slack]
            far = far if far.size else options
            beyond[k] = far[np.argmin(np.abs(far - at))]
        return near, beyond
