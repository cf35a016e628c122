"""The noise of a single trial, from points that were measured more than once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from recengine.contracts.tuner import Observation


@dataclass(frozen=True)
class Noise:
    """sd: standard deviation of one trial, in units of the objective; freedom: degrees of freedom behind it,
    one less than the repeats of each point."""

    sd: float
    freedom: int


def noise(history: Sequence[Observation], objective: int = 0) -> Noise | None:
    """sd = sqrt(sum over points of sum_i (y_i - mean y)^2 / freedom), the within-point variance pooled over
    the points that were measured more than once; None where none was. Failed and copied trials do not
    count."""
    groups: dict[str, list[float]] = {}
    for seen in history:
        if seen.feasible and seen.values and not seen.copied:
            groups.setdefault(repr(sorted(seen.parameters.items())), []).append(seen.values[objective])
    repeated = [values for values in groups.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    if not freedom:
        return None
    means = [math.fsum(values) / len(values) for values in repeated]
    squares = math.fsum(
        (value - mean) ** 2 for values, mean in zip(repeated, means, strict=True) for value in values
    )
    return Noise(math.sqrt(squares / freedom), freedom)
