"""Points within linear limits where draws from the whole cube hardly ever meet them: a walk inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recengine.errors import UsageError
from recengine.tuning.space import Space

_SWEEPS = 8  # over all parameters, from one point to the next
_NOWHERE = 1e-8  # what the rounding of a limit leaves
_SHORTENED = 30  # times that a step is: then it stays where it is


def walk(space: Space, generator: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Endlessly many points of ``space`` that meet its limits, by hit-and-run from the default.

    A step draws a place on the chord through the present point, along one parameter or (once a sweep) along a
    random direction, and draws again between here and there while the limits bar it; for real parameters on
    linear scales that leaves the uniform distribution as it is. The points depend on ``generator`` alone.
    Raises UsageError where no step leads anywhere: where the limits have no inside around the default.

    Source: Smith, "Efficient Monte Carlo procedures for generating points uniformly distributed over bounded
    regions", Operations Research 1984; the shortening: Neal, "Slice sampling", Annals of Statistics 2003.
    """
    row = space.encode(space.default)
    while True:
        before = row
        for _ in range(_SWEEPS):
            for group in generator.permutation(len(space.groups)):
                columns = list(space.groups[group])
                if space.parameters[group].kind == "choice":
                    row = _redrawn(space, row, columns, generator)
                else:
                    row = _step(space, row, np.eye(space.width)[columns[0]], generator)
            numeric = [p.kind != "choice" for p in space.parameters for _ in range(p.width)]
            row = _step(space, row, np.where(numeric, generator.normal(size=space.width), 0.0), generator)
        if np.abs(row - before).max() <= _NOWHERE:
            raise UsageError(
                "the linear limits leave no room around the default to move in",
                where="limits",
                found="; ".join(map(str, space.limits)),
                fix="loosen the limits; for an equality, compute one parameter from the others",
            )
        yield space.decode(row)


def _step(
    space: Space, row: NDArray[np.float64], along: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.float64]:
    """A place on the chord through ``row`` (of the unit cube) in the direction ``along``."""
    moving = along != 0
    if not moving.any():
        return row
    ends = np.stack([(end - row[moving]) / along[moving] for end in (0.0, 1.0)])
    low, high = float(ends.min(axis=0).max()), float(ends.max(axis=0).min())
    for _ in range(_SHORTENED):
        at = float(generator.uniform(low, high))
        there = np.clip(row + at * along, 0.0, 1.0)
        if space.allows(space.decode(there)):
            return there
        low, high = (at, high) if at < 0 else (low, at)
    return row


def _redrawn(
    space: Space, row: NDArray[np.float64], columns: list[int], generator: np.random.Generator
) -> NDArray[np.float64]:
    """``row`` with one choice drawn anew, where the limits allow it."""
    there = row.copy()
    there[columns] = generator.random(len(columns))
    return there if space.allows(space.decode(there)) else row
