"""What the prices of one relaxation say about other bounds, without another solve.

Under prices (``dual.Prices``) the cost of every allowed point is at least a sum of one term a feature. Least
terms over whole categories bound a node from below; a level, or a whole number, whose term alone lifts that
sum to the cost of a known answer can be ruled out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recengine.recourse import Constraints
from recengine_plugins.ellice.dual import Prices
from recengine_plugins.ellice.problem import Convex

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Narrowed:
    """Bounds [n, d] of what may still be better than the known answers, and lower bounds [n] of the cost."""

    low: Array
    high: Array
    bound: Array


def narrowed(
    problem: Convex,
    limits: Constraints,
    prices: Prices,
    people: Array,
    low: Array,
    high: Array,
    known: Array,
) -> Narrowed:
    """For ``people`` [n, d] within low <= x <= high, with answers of cost ``known`` [n] (inf: none)."""
    low, high = low.copy(), high.copy()
    numbers = ~limits.indicator
    slope, square, absolute = prices.slope, problem.square, problem.absolute
    pulled = np.sign(slope) * np.maximum(np.abs(slope) - absolute, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.where(pulled == 0, 0.0, -pulled / (2 * square))
        step = np.clip(np.where(np.isnan(step), 0.0, step), low - people, high - people)
        terms = square * step**2 + absolute * np.abs(step) + slope * step
    total = prices.level + terms[:, numbers].sum(axis=1)
    levels = _Levels(limits, people, slope, absolute, low, high)
    total = total + levels.least.sum(axis=1)
    bound = np.where(np.isnan(total), 0.0, total)
    room = np.where(np.isfinite(known) & ~np.isnan(total), known * (1 + 1e-12) - total, np.inf)
    levels.rule_out(room, low, high)
    at = np.flatnonzero(limits.integer & numbers)
    if at.size:
        reach_up = _reach(square[at], absolute[at] + slope[:, at], room[:, None] + terms[:, at])
        reach_down = _reach(square[at], absolute[at] - slope[:, at], room[:, None] + terms[:, at])
        own = people[:, at]
        high[:, at] = np.minimum(high[:, at], np.maximum(np.floor(own + reach_up + 1e-9), own))
        low[:, at] = np.maximum(low[:, at], np.minimum(np.ceil(own - reach_down - 1e-9), own))
    return Narrowed(low, high, bound)


def _reach(square: Array, slope: Array, room: Array) -> Array:
    """The largest t >= 0 with square t^2 + slope t <= room; 0 where there is none, inf without end."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = slope**2 + 4 * square * np.maximum(room, 0.0)
        curved = (-slope + np.sqrt(inside)) / (2 * square)
        straight = np.where(slope > 0, np.maximum(room, 0.0) / slope, np.inf)
    reach = np.where(square > 0, curved, straight)
    return np.where(np.isinf(room) | np.isnan(reach), np.inf, np.maximum(reach, 0.0))


class _Levels:
    """The terms of all categories: value [n, c] of each level, least [n, groups] of the open ones."""

    def __init__(
        self, limits: Constraints, people: Array, slope: Array, absolute: Array, low: Array, high: Array
    ) -> None:
        sizes = [len(group) for group in limits.groups]
        self.at = np.concatenate([np.zeros(0, np.int64), *limits.groups])
        self.group = np.repeat(np.arange(len(sizes)), sizes)
        self.starts = np.cumsum([0, *sizes])[:-1]
        n = len(people)
        if not sizes:
            self.least = np.zeros((n, 0))
            return
        there = people[:, self.at] > 0.5
        s, paid = slope[:, self.at], absolute[self.at]
        leaving = np.add.reduceat(np.where(there, s - paid, 0.0), self.starts, axis=1)
        value = np.where(there, 0.0, s + paid - leaving[:, self.group])
        chosen = np.maximum.reduceat(low[:, self.at], self.starts, axis=1)[:, self.group] > 0.5
        self.open = np.where(chosen, low[:, self.at] > 0.5, high[:, self.at] > 0.5)
        self.value = np.where(self.open, value, np.inf)
        self.least = np.minimum.reduceat(self.value, self.starts, axis=1)

    def rule_out(self, room: Array, low: Array, high: Array) -> None:
        """Close levels whose term leaves no room, and settle categories with one level left."""
        if not self.least.shape[1]:
            return
        with np.errstate(invalid="ignore"):
            extra = self.value - self.least[:, self.group]
        still = self.open & ~(extra > room[:, None])
        high[:, self.at] = np.where(still, high[:, self.at], np.minimum(high[:, self.at], 0.0))
        left = np.add.reduceat(still.astype(np.int64), self.starts, axis=1)[:, self.group]
        only = still & (left == 1)
        low[:, self.at] = np.where(only, 1.0, low[:, self.at])
