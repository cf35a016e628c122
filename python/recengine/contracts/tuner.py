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
    """Built as ``Tuner(config, space, seed)``; ``space`` is a recengine.tuning.Space."""

    def propose(
        self, history: Sequence[Observation], n: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        """n new points, given what is known and what is being tried just now.

        Deterministic given the seed it was built with and its arguments. A point may carry the key
        ``__facts__``: what the policy wants kept with the trial.
        """
        ...
