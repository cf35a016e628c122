"""What the numbers say, in sentences: the lead of a page, its tiles, the reading of a difference."""

from __future__ import annotations

from dataclasses import dataclass

from recengine.reports import words
from recengine.reports.content import Difference, Estimate, Report, System


@dataclass(frozen=True)
class Tile:
    """One figure at the head of the page."""

    label: str
    value: str
    note: str = ""
    css: str = ""


def reading(difference: Difference) -> str:
    """One clause on a paired difference; it claims no more than that the interval leaves zero out."""
    low, high = difference.estimate.low, difference.estimate.high
    if low > 0:
        return f"{difference.better} is ahead"
    if high < 0:
        return f"{difference.other} is ahead"
    return "not decided by these users"


def lead(report: Report, ranked: list[System]) -> list[str]:
    """The result in one or two sentences."""
    having = [system for system in ranked if report.headline in system.metrics]
    if not having:
        return []
    best, name = having[0], words.metric_name(report.headline)
    first = best.metrics[report.headline]
    if len(having) == 1:
        return [
            f"{best.name} reaches {name} {_with_interval(first)} over {words.count(first.n)} {report.unit}."
        ]
    said = f"{best.name} ranks best of {len(having)} models: {name} {_with_interval(first)}."
    near = next(
        (d for d in report.differences if d.better == best.name and d.metric == report.headline), None
    )
    if near is None:
        return [said]
    gap = near.estimate
    if gap.low > 0:
        more = f"It leads {near.other} by {_with_interval(gap)}, user by user."
    else:
        more = (
            f"Its lead over {near.other}, {_with_interval(gap)} user by user, is not decided by these users."
        )
    return [f"{said} {more}"]


def tiles(report: Report, ranked: list[System]) -> list[Tile]:
    """Users asked, items ranked, best figure, verdict of the audit: what a hurried reader wants."""
    shown = []
    having = [system for system in ranked if report.headline in system.metrics]
    if having:
        estimate = having[0].metrics[report.headline]
        shown.append(Tile(words.metric_name(report.headline), words.score(estimate.mean), having[0].name))
        note = "each with held-out targets" if report.unit == "users" else "that no model learned from"
        shown.append(Tile(f"{report.unit.capitalize()} asked", words.count(estimate.n), note))
    if report.data is not None:
        shown.append(
            Tile("Items ranked", words.count(report.data.items), "for every user, seen ones left out")
        )
    if report.audit is not None:
        shown.append(_audit_tile(report))
    return shown


def _audit_tile(report: Report) -> Tile:
    severities = [entry.severity for entry in report.audit or ()]
    if "fail" in severities:
        return Tile("Leakage audit", "failed", f"{severities.count('fail')} leaks found", "fail")
    warnings = severities.count("warn")
    if warnings:
        return Tile(
            "Leakage audit", "passed", f"with {warnings} warning{'s' * (warnings > 1)}, below", "warn"
        )
    return Tile("Leakage audit", "passed", "no leak found")


def _with_interval(estimate: Estimate) -> str:
    return f"{words.score(estimate.mean)} ({words.span(estimate)})"
