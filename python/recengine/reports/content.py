"""What a report says, as plain data: everything on the page, in the JSON and in the CSV comes from here.

Nothing in this module knows how a run was made or how a page looks; ``gather`` fills it from runs,
``page`` draws it, ``tables`` writes the same numbers for machines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` users with the ends of its 95 % interval (NaN where there is none)."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def has_interval(self) -> bool:
        """Whether both ends are numbers."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Curve:
    """How a quantity moved: a training curve, or a setting tried at several values.

    x, y: equally long. chosen: the x that was picked (by the validation data), None where nothing was.
    log_x: draw x on a logarithmic axis (all x > 0).
    """

    title: str
    x_label: str
    y_label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    chosen: float | None = None
    log_x: bool = False


@dataclass(frozen=True)
class System:
    """One fitted model: its name, what it is in a sentence, its numbers, how it came about.

    metrics: by metric name with cut-off ('ndcg@10'). config: settings by dotted key.
    """

    name: str
    summary: str
    metrics: dict[str, Estimate]
    curves: tuple[Curve, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None


@dataclass(frozen=True)
class Difference:
    """Mean over users of (metric of ``better`` - metric of ``other``), user by user, with its interval."""

    better: str
    other: str
    metric: str
    estimate: Estimate


@dataclass(frozen=True)
class Slices:
    """One metric by group. labels, counts: a group each; values: by system, None where nobody is in it."""

    title: str
    note: str
    metric: str
    group: str
    unit: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    values: dict[str, tuple[Estimate | None, ...]]


@dataclass(frozen=True)
class Calibration:
    """Whether predicted probabilities come true, for one system. bins: mean prediction, observed share with
    its interval and rows, lowest predictions first. error: mean |observed - predicted| over rows. brier: mean
    squared distance of prediction and outcome."""

    system: str
    bins: tuple[tuple[float, Estimate], ...]
    error: float
    brier: float


@dataclass(frozen=True)
class Recommended:
    """One line of a list: what is shown of the item, and whether it was among the held-out targets."""

    title: str
    hit: bool


@dataclass(frozen=True)
class Example:
    """Lists for one user. history: latest last. n_history, n_targets: how many there are in all."""

    user: str
    history: tuple[str, ...]
    n_history: int
    n_targets: int
    lists: dict[str, tuple[Recommended, ...]]


@dataclass(frozen=True)
class Bars:
    """A histogram or a series over time: label and height of each bar, and the part it belongs to."""

    labels: tuple[str, ...]
    heights: tuple[float, ...]
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataFacts:
    """What the data are.

    density: share of the user x item matrix that is filled. span: first and last time in words, None
    without times. lengths: histogram of events a user. concentration: share of events (y) that the most
    popular share of items (x) take. timeline: events by time, each bar labelled train, validation or test.
    """

    name: str
    rows: int
    users: int
    items: int
    density: float
    span: tuple[str, str] | None
    lengths: Bars
    concentration: tuple[tuple[float, ...], tuple[float, ...]]
    median_length: float
    timeline: Bars | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AuditEntry:
    """A finding of the leakage audit in words, with its evidence as label and value."""

    check: str
    severity: Literal["info", "warn", "fail"]
    message: str
    evidence: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Report:
    """A page. ``headline`` is the metric that the summary and the first figure are about; ``unit``: what the
    metrics are means over."""

    title: str
    asked: tuple[str, ...]
    headline: str
    systems: tuple[System, ...]
    protocol: dict[str, str]
    protocol_hash: str
    data: DataFacts | None = None
    audit: tuple[AuditEntry, ...] | None = None
    differences: tuple[Difference, ...] = ()
    slices: tuple[Slices, ...] = ()
    examples: tuple[Example, ...] = ()
    calibration: tuple[Calibration, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    made: str = ""
    unit: str = "users"
