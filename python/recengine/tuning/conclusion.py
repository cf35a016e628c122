"""What a search comes to: the recommendation, after trials of its own have confirmed it.

A recommendation is the best point without the changes that a model expects to do nothing, so it may never
have been measured. It is then, and the tuner concludes again with what that told: after a few such trials
the recommendation was measured, or what was measured before takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from recengine.contracts.tuner import Concludes, Conclusion, Observation
from recengine.errors import UsageError
from recengine.tuning.space import Space
from recengine.tuning.stopping import Watched
from recengine.tuning.store import Trial
from recengine.tuning.study import Objective, Study

CONFIRMATIONS = 2


@dataclass(frozen=True)
class Concluded:
    """recommended: the point; conclusion: what the tuner says of its changes; None where it says nothing, and
    the best trial is recommended; reason: why a tuner that concludes could not."""

    recommended: dict[str, Any]
    conclusion: Conclusion | None = None
    reason: str = ""


def conclude(
    study: Study,
    objective: Objective | Watched | None = None,
    *,
    confirmations: int = CONFIRMATIONS,
    executor: Executor | None = None,
    finished: Callable[[Trial], None] | None = None,
) -> Concluded:
    """Conclude a search, and spend up to ``confirmations`` trials on what is recommended.

    Each is asked, measured with ``objective`` (by ``executor``, where one is given) and told as any trial,
    and kept as a confirmation (Trial.confirmation), which counts for what is recommended but not toward the
    trials of ``Study.run``. Those that the file has since the last trial of the search count: the same call
    goes on where a killed one ended. Where they are spent and what is recommended then was not measured, the
    measured point that is as good as the best with the fewest changes is recommended. With no objective, or
    no confirmations, nothing is measured.

    Raises UsageError when no trial has succeeded.
    """
    best = study.best().parameters
    if not isinstance(study.tuner, Concludes):
        return Concluded(best)
    spends = objective is not None and confirmations > 0
    while True:
        history = study.history()
        try:
            found = study.tuner.conclude(history)
        except UsageError as refused:
            return Concluded(best, reason=refused.problem)
        point = unconfirmed(study.space, found, history)
        if point is not None and not spends:
            return Concluded(point, found)
        if point is None or len(study.confirmations()) >= confirmations or study.under_way(point):
            return Concluded(confirmed(study.space, found, history), found)
        assert objective is not None
        study.measure(study.confirm(point), objective, executor=executor, finished=finished)


def unconfirmed(
    space: Space, conclusion: Conclusion, history: Sequence[Observation]
) -> dict[str, Any] | None:
    """What is recommended, where the study has not tried it; None where it has."""
    tried = [seen for seen in history if not seen.copied]
    return None if _among(space, conclusion.recommended, tried) else dict(conclusion.recommended)


def confirmed(space: Space, conclusion: Conclusion, history: Sequence[Observation]) -> dict[str, Any]:
    """What is recommended, where the study measured it; else the measured point that is as good as the best
    with the fewest changes: the frontier's last, or the incumbent of a tuner that gives none."""
    measured = [seen for seen in history if seen.feasible and seen.values and not seen.copied]
    if _among(space, conclusion.recommended, measured):
        return dict(conclusion.recommended)
    return dict(conclusion.frontier[-1].parameters if conclusion.frontier else conclusion.incumbent)


def _among(space: Space, point: Mapping[str, Any], history: Sequence[Observation]) -> bool:
    here = space.encode(point)
    return any(bool(np.abs(space.encode(seen.parameters) - here).max() <= 1e-9) for seen in history)
