"""The page of repeated runs: envelope, run-to-run spread, agreement of lists, noise of the grader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recengine.reports import words
from recengine.reports.content import Estimate
from recengine.reports.page import filled
from recengine.reports.tables import plain_json, sheet
from recengine.reports.verdict import Tile
from recengine.reports.write import write_files

if TYPE_CHECKING:
    from recengine.evaluation.repeats import Reliability
    from recengine.evaluation.statistics.reliability import Interval


@dataclass(frozen=True)
class ReliabilityReport:
    """systems: what was found, by name of the system."""

    title: str
    systems: Mapping[str, Reliability]
    made: str


def write_reliability(found: Mapping[str, Reliability], path: str | Path, *, title: str = "") -> Path:
    """A page at ``path`` with JSON and CSV beside it. Raises UsageError when jinja2 is not installed."""
    report = ReliabilityReport(
        title or "Reliability over repeated runs", found, f"{datetime.now(UTC):%Y-%m-%d}"
    )
    return write_files(path, render_reliability(report), plain_json(report), reliability_csv(report))


def render_reliability(report: ReliabilityReport) -> str:
    """The page as text."""
    return filled(
        "reliability.html.j2",
        {
            "title": report.title,
            "made": report.made,
            "verdict": [_lead(name, one) for name, one in list(report.systems.items())[:3]],
            "tiles": _tiles(report),
            "report": report,
            "names": {name: names_of(one) for name, one in report.systems.items()},
            "best": {
                n: [estimate(row.best, one.tasks) for row in one.envelope]
                for n, one in report.systems.items()
            },
            "worst": {
                n: [estimate(row.worst, one.tasks) for row in one.envelope]
                for n, one in report.systems.items()
            },
        },
    )


def names_of(one: Reliability) -> tuple[str, str]:
    """What the two curves are called."""
    return ("pass@k (any)", "pass^k (all)") if one.binary else ("best@k", "worst@k")


def estimate(interval: Interval, n: int) -> Estimate:
    return Estimate(interval.estimate, interval.low, interval.high, n)


def _lead(name: str, one: Reliability) -> str:
    last = one.envelope[-1]
    if one.binary:
        return (
            f"{name} solves {words.percent(one.mean)} of {words.count(one.tasks)} tasks in a run; "
            f"{words.percent(last.best.estimate)} in any of {last.k} runs, "
            f"{words.percent(last.worst.estimate)} in all of them."
        )
    return (
        f"{name} scores {words.score(one.mean)} in a run; "
        f"{words.score(last.best.estimate)} in the best of {last.k}, "
        f"{words.score(last.worst.estimate)} in the worst."
    )


def _tiles(report: ReliabilityReport) -> list[Tile]:
    first = next(iter(report.systems.values()))
    return [
        Tile("Systems", words.count(len(report.systems))),
        Tile("Tasks", words.count(first.tasks)),
        Tile("Runs", words.count(first.runs), "of every task"),
        Tile(
            "Spread of a run", words.score(first.run_sd), f"if independent {words.score(first.expected_sd)}"
        ),
    ]


def reliability_csv(report: ReliabilityReport) -> str:
    """One line a system, k and side of the envelope."""
    rows: list[tuple[Any, ...]] = []
    for name, one in report.systems.items():
        for row in one.envelope:
            for side, interval in zip(names_of(one), (row.best, row.worst), strict=True):
                rows.append((name, side, row.k, interval.estimate, interval.low, interval.high, one.tasks))
    return sheet(("system", "measure", "k", "mean", "low", "high", "tasks"), rows)
