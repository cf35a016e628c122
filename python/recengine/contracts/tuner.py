"""What a tuner is: a policy that proposes points of a space, and is told what they were worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Observation:
    """A finished trial: parameters, one value an objective (larger is better; none where it failed), whether
    the point is feasible, and the trial's seed.

    copied: another study measured it. It tells where to look; what is recommended was measured by this one.
    """

    parameters: Mapping[str, Any]
    values: tuple[float, ...]
    feasible: bool = True
    seed: int | None = None
    copied: bool = False


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


@dataclass(frozen=True)
class Reversion:
    """One changed parameter: what putting it back to the default would lose, with a 95 % interval.

    importance: its share in how much the predicted value varies around the recommendation, 0 to 1.
    """

    name: str
    default: Any
    proposed: Any
    loss: float
    low: float
    high: float
    importance: float | None = None


@dataclass(frozen=True)
class FrontierPoint:
    """k changed parameters: the point, its predicted value and sd, the best observed with at most k."""

    changed: int
    parameters: dict[str, Any]
    mean: float
    sd: float
    observed: float | None


@dataclass(frozen=True)
class Conclusion:
    """incumbent: best observed point; recommended: the sparsest one judged as good, which may not have been
    measured yet; reversions of it. frontier: by number of changes, from the default to a point that was
    measured and is as good as the incumbent. None of them rests on copied observations alone."""

    incumbent: dict[str, Any]
    recommended: dict[str, Any]
    frontier: list[FrontierPoint]
    reversions: list[Reversion]


@runtime_checkable
class Concludes(Protocol):
    """A tuner that can say which of the changes it found matter."""

    def conclude(self, history: Sequence[Observation]) -> Conclusion:
        """Raises UsageError when too little was measured."""
        ...
