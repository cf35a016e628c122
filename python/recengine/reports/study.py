"""The page of a study: what every trial was worth, what won, each setting against the value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recengine.files import write_bytes
from recengine.reports import words
from recengine.reports.comparison import About
from recengine.reports.page import filled, parts_of, without_split_settings
from recengine.reports.pieces import flat
from recengine.reports.tables import plain_json, sheet
from recengine.reports.verdict import Tile
from recengine.reports.write import write_files

if TYPE_CHECKING:
    from recengine.contracts.tuner import Conclusion, FrontierPoint, Reversion
    from recengine.evaluation import Protocol
    from recengine.tuning import Study

_MOST_FIGURES = 12
_MOST_ROWS = 15


@dataclass(frozen=True)
class TrialRow:
    """value: None for a trial that gave none. note: why it gave none. changed: settings away from the
    default. kind: of the search, or a confirmation of what it recommended."""

    number: int
    state: str
    value: float | None
    feasible: bool
    seed: int
    parameters: dict[str, Any]
    note: str
    changed: int
    kind: Literal["search", "confirmation"] = "search"


@dataclass(frozen=True)
class Confirmation:
    """Values of fresh seeds, in the order of the seeds."""

    label: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class StudyReport:
    """trials: those that have an outcome. default, recommended: points by setting. log: settings searched on
    a logarithmic scale. reversions: what the tuner expects to lose when a changed setting is put back.
    frontier: the best that it knows with so many changed settings."""

    title: str
    metric: str
    trials: tuple[TrialRow, ...]
    default: dict[str, Any]
    recommended: dict[str, Any]
    log: tuple[str, ...]
    confirmation: tuple[Confirmation, ...] = ()
    reversions: tuple[Reversion, ...] = ()
    frontier: tuple[FrontierPoint, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    about: About = field(default_factory=About)
    protocol: dict[str, str] = field(default_factory=dict)
    protocol_hash: str = ""
    made: str = ""

    @property
    def start(self) -> float | None:
        """What the default was worth; None where it gave no value."""
        return next((value for row, value in self.finished if not row.changed), None)

    @property
    def finished(self) -> list[tuple[TrialRow, float]]:
        """Feasible trials that gave a value, in the order in which they were asked."""
        return [(row, row.value) for row in self.trials if row.value is not None and row.feasible]


def study_report(
    study: Study,
    *,
    title: str = "",
    recommended: Mapping[str, Any] | None = None,
    confirmation: Mapping[str, Sequence[float]] | None = None,
    facts: Mapping[str, str] | None = None,
    about: About | None = None,
    protocol: Protocol | None = None,
    conclusion: Conclusion | None = None,
) -> StudyReport:
    """What ``study`` found. recommended: the point that is recommended; the best trial's where none is given.
    confirmation: values of fresh seeds by label. facts: what else to tell (data, model, tuner). about,
    protocol: data and audit, and what the validation asks, for a study of a recommender. conclusion: what the
    tuner says of the changes.

    Raises UsageError when no trial has succeeded.
    """
    rows = tuple(
        TrialRow(
            trial.number, trial.state, None if trial.values is None else float(trial.values[0]),
            trial.feasible, trial.seed, dict(trial.parameters), trial.note,
            len(study.space.changed(trial.parameters)), "confirmation" if trial.confirmation else "search",
        )
        for trial in study.ended()
    )  # fmt: skip
    point = dict(recommended if recommended is not None else study.best().parameters)
    return StudyReport(
        title or f"Study {study.name}",
        study.objectives[0],
        rows,
        dict(study.space.default),
        point,
        tuple(p.name for p in study.space.parameters if p.log),
        tuple(Confirmation(label, tuple(values)) for label, values in (confirmation or {}).items()),
        tuple(conclusion.reversions) if conclusion else (),
        tuple(conclusion.frontier) if conclusion else (),
        {"study": study.name, "seed": str(study.seed), **(facts or {})},
        about or About(),
        {} if protocol is None else flat(protocol.describe()),
        "" if protocol is None else protocol.hash,
        f"{datetime.now(UTC):%Y-%m-%d}",
    )


def write_study(study: Study, path: str | Path, **told: Any) -> Path:
    """``study_report(study, **told)`` as a page at ``path``, with JSON and CSV beside it; where a tuner has
    concluded, its tables of the changes as ``.frontier.csv`` and ``.reversions.csv``, too."""
    report = study_report(study, **told)
    page = write_files(path, render_study(report), plain_json(report), study_csv(report))
    if report.frontier:
        write_bytes(page.with_suffix(".frontier.csv"), frontier_csv(report).encode())
        write_bytes(page.with_suffix(".reversions.csv"), reversions_csv(report).encode())
    return page


def render_study(report: StudyReport) -> str:
    """The page as text. Raises UsageError when jinja2 is not installed."""
    finished = report.finished
    changed = [name for name in report.default if report.recommended.get(name) != report.default[name]]
    varied = [
        name for name in report.default if len({str(row.parameters.get(name)) for row, _ in finished}) > 1
    ]
    figures = sorted(varied, key=lambda name: (name not in changed, list(report.default).index(name)))
    best = sorted(finished, key=lambda pair: -pair[1])[:_MOST_ROWS]
    return filled(
        "study.html.j2",
        {
            "title": report.title,
            "made": report.made,
            "verdict": lead(report, changed),
            "tiles": tiles(report),
            "report": report,
            "changed": changed,
            "numbers": [row.number for row, _ in finished],
            "values": [value for _, value in finished],
            "changes": [row.changed for row, _ in finished],
            "frontier": [
                (
                    point,
                    [n for n, usual in report.default.items() if point.parameters.get(n, usual) != usual],
                )
                for point in report.frontier
            ],
            "losses": {row.name: row for row in report.reversions},
            "settings": {
                name: [row.parameters.get(name, report.default[name]) for row, _ in finished]
                for name in figures[:_MOST_FIGURES]
            },
            "best": best,
            "columns": [name for name in figures if name in varied][:6],
            "parts": parts_of(report.about.data),
            "protocol": without_split_settings(report.protocol),
            "failed": [row for row in report.trials if row.state == "failed"],
        },
    )


def lead(report: StudyReport, changed: Sequence[str]) -> list[str]:
    """The result in two sentences."""
    finished = report.finished
    if not finished:
        return ["No trial has succeeded yet."]
    name = words.metric_name(report.metric)
    best = max(value for _, value in finished)
    start = "gave no value" if report.start is None else f"reach {words.score(report.start)}"
    said = [
        f"The best of {len(finished)} trials reaches {name} {words.score(best)} on the validation data; the "
        f"default settings {start}. {len(changed)} of {len(report.default)} settings are changed."
    ]
    if len(report.confirmation) == 2 and all(one.values for one in report.confirmation):
        tuned, plain = (sum(one.values) / len(one.values) for one in report.confirmation)
        said.append(
            f"With fresh seeds the recommended settings reach {words.score(tuned)}, the default "
            f"{words.score(plain)}: the best of many trials looks better than it is, these do not."
        )
    return said


def tiles(report: StudyReport) -> list[Tile]:
    """Best value, trials, failures, seed."""
    finished = report.finished
    failed = sum(row.state == "failed" for row in report.trials)
    shown = [Tile("Trials", words.count(len(report.trials)), f"{failed} failed" if failed else "none failed")]
    if finished:
        row, value = max(finished, key=lambda pair: pair[1])
        shown.insert(0, Tile(words.metric_name(report.metric), words.score(value), f"trial {row.number}"))
        if report.start is not None:
            gain = value - report.start
            shown.append(Tile("Gain over the default", words.signed(gain), "on validation, single runs"))
    return shown


def study_csv(report: StudyReport) -> str:
    """One line a trial."""
    names = list(report.default)
    rows = [
        (
            row.number, row.state, row.kind, row.value, row.feasible, row.seed,
            *(row.parameters.get(n) for n in names),
        )
        for row in report.trials
    ]  # fmt: skip
    return sheet(("trial", "state", "trial kind", report.metric, "feasible", "seed", *names), rows)


def frontier_csv(report: StudyReport) -> str:
    """One line a number of changed settings: predicted value with its sd, the best observed, the point."""
    names = list(report.default)
    rows = [
        (point.changed, point.mean, point.sd, point.observed, *(point.parameters.get(n) for n in names))
        for point in report.frontier
    ]
    return sheet(("changed", "predicted", "sd", "best observed", *names), rows)


def reversions_csv(report: StudyReport) -> str:
    """One line a changed setting: what putting it back would lose, with its 95 % interval."""
    rows = [
        (row.name, row.default, row.proposed, row.loss, row.low, row.high, row.importance)
        for row in report.reversions
    ]
    return sheet(("setting", "default", "recommended", "loss", "low", "high", "importance"), rows)
