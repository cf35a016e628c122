"""Stopping hopeless trials: a report a step, and the median rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from recengine.errors import DataError
from recengine.tuning.store import StudyFile, Trial
from recengine.tuning.values import number

AT_LEAST = 5  # finished trials to judge by
Report = Callable[[int, float], None]


class HopelessError(Exception):
    """Raised inside an objective by its report; ``value``: the best that the trial had reached."""

    def __init__(self, value: float) -> None:
        super().__init__(value)
        self.value = value


@runtime_checkable
class Watched(Protocol):
    """An objective that reports while it runs. The report raises HopelessError when it should end; let it."""

    def watched(self, point: dict[str, Any], seed: int, report: Report) -> float | Sequence[float]:
        """What the point is worth; ``report(step, value)`` after each step, larger values are better."""
        ...


def hopeless(trials: Sequence[Trial], number: int, step: int) -> bool:
    """The median rule: whether the best that trial ``number`` reported lies below the median of the running
    means of the finished trials up to ``step``.

    It judges from a quarter of their steps on, by at least five of them.
    Source: Golovin et al., "Google Vizier", KDD 2017.
    """
    means = [
        float(np.mean([value for at, value in trial.reports if at <= step]))
        for trial in trials
        if trial.number != number
        and trial.state == "done"
        and trial.reports
        and trial.reports[-1][0] >= step
        and 4 * step >= trial.reports[-1][0]
    ]
    own = [value for trial in trials if trial.number == number for _, value in trial.reports]
    return len(means) >= AT_LEAST and bool(own) and max(own) < float(np.median(means))


@dataclass(frozen=True)
class Reporter:
    """Writes the reports of one trial to its study's file; can be sent to another process."""

    path: Path
    study: str
    trial: int

    def __call__(self, step: int, value: float) -> None:
        """Raises HopelessError when the trial should end. A report that the file does not take is left out:
        the trial goes on, and its next report decides."""
        value = number(value, "report")
        try:
            file = StudyFile(self.path)
            file.report(self.study, self.trial, step, value)
            trials = file.trials(self.study)
        except DataError:  # a full disk says nothing of the trial; writing its outcome is tried again
            return
        if hopeless(trials, self.trial, step):
            raise HopelessError(max(v for t in trials if t.number == self.trial for _, v in t.reports))
