"""What a tuner is: a policy that proposes points of a space, and is told what they were worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Observation:
    """A finished trial: parameters, objective values (larger is better), constraint slacks, seed."""

    parameters: Mapping[str, Any]
    values: tuple[float, ...]
    feasible: bool = True
    seed: int | None = None


class Tuner(Protocol):
    """``space`` is a recengine.tuning space; ``default`` a point of it."""

    def propose(self, history: Sequence[Observation], n: int) -> list[dict[str, Any]]:
        """n new points; deterministic given the seed it was built with and the history."""
        ...
