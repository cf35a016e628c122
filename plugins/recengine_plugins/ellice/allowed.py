"""What a search found, and whether points and people keep the rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recengine.errors import DataError
from recengine.recourse import Constraints

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """Points [N, d] (NaN where none) and what the search says about them."""

    points: Array
    extras: dict[str, Any]


def in_one_level(x0: Array, limits: Constraints) -> None:
    """Raise DataError for a person who is not in exactly one level of a category."""
    for group in limits.groups:
        x = x0[:, group]
        bad = ~(np.isin(x, (0.0, 1.0)).all(axis=1) & (x.sum(axis=1) == 1))
        if bad.any():
            raise DataError(
                "a person is not in exactly one level of a category",
                where=f"person {int(np.argmax(bad))}, '{limits.thing(int(group[0]))}'",
                found=x[int(np.argmax(bad))].tolist(),
                expected="one 1, the rest 0",
            )


def kept(points: Array, x0: Array, limits: Constraints, *, tolerance: float = 1e-6) -> NDArray[np.bool_]:
    """Whether each point keeps every constraint: bounds and values to the bit, rows up to rounding."""
    low, high = limits.bounds(x0)
    good = ((points >= low) & (points <= high)).all(axis=1)
    size = 1 + np.abs(points).max(axis=1, initial=0.0)
    if len(limits.A):
        room = tolerance * (1 + np.abs(limits.A).sum(axis=1)) * size[:, None]
        good &= (points @ limits.A.T <= limits.b + room).all(axis=1)
    for i, j, ratio in limits.links:
        off = (points[:, j] - x0[:, j]) - ratio * (points[:, i] - x0[:, i])
        good &= np.abs(off) <= tolerance * (1 + abs(ratio)) * size
    for group in limits.groups:
        column = points[:, group]
        good &= np.isin(column, (0.0, 1.0)).all(axis=1) & (column.sum(axis=1) == 1)
    for i, values in limits.allowed.items():
        good &= np.isin(points[:, i], values) | (points[:, i] == x0[:, i])
    for i in np.flatnonzero(limits.integer):
        good &= (points[:, i] == np.round(points[:, i])) | (points[:, i] == x0[:, i])
    return np.asarray(good)
