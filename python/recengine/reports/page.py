"""The page: a Report drawn as one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from typing import Any

from recengine.errors import UsageError
from recengine.reports import figures, verdict, words
from recengine.reports.content import DataFacts, Report, System
from recengine.reports.scale import padded

_TEMPLATES = "templates"
_MORE_IS_BETTER = {"hr", "ndcg", "recall", "precision", "mrr", "map", "auc", "gauc"}


def render(report: Report) -> str:
    """The whole page as text. Raises UsageError when jinja2 is not installed."""
    report = replace(report, systems=tuple(with_finite_metrics(system) for system in report.systems))
    shades = shade_of_each(report.systems)
    order = ranked(report)
    return filled(
        "report.html.j2",
        {
            "title": report.title,
            "made": report.made,
            "report": report,
            "shades": shades,
            "metrics": metric_columns(report.systems),
            "best": best_of_each(report.systems),
            "ranked": order,
            "verdict": verdict.lead(report, order),
            "tiles": verdict.tiles(report, order),
            "readings": [verdict.reading(difference) for difference in report.differences],
            "curves": [(system.name, curve) for system in report.systems for curve in system.curves],
            "parts": parts_of(report.data),
            "protocol": without_split_settings(report.protocol),
            "bounds": column_bounds(report.systems),
            "configs": config_rows(report.systems),
        },
    )


def filled(template: str, values: Mapping[str, Any]) -> str:
    """A template of this room with its values. Raises UsageError when jinja2 is not installed."""
    style = (resources.files(__package__) / _TEMPLATES / "style.css").read_text("utf-8")
    return str(_environment().get_template(template).render(style=style, **values))


def without_split_settings(protocol: Mapping[str, str]) -> dict[str, str]:
    """The protocol without the many settings of the split, which the JSON holds."""
    return {key: value for key, value in protocol.items() if not key.startswith("split.settings.")}


def with_finite_metrics(system: System) -> System:
    """The system without the metrics that are not defined for its users: a page shows a dash for them."""
    finite = {name: e for name, e in system.metrics.items() if math.isfinite(e.mean)}
    return replace(system, metrics=finite)


def shade_of_each(systems: tuple[System, ...]) -> dict[str, int]:
    """Colour and marker number 1 to 8 by system, in the order in which they were given."""
    return {system.name: index % 8 + 1 for index, system in enumerate(systems)}


def metric_columns(systems: tuple[System, ...]) -> list[str]:
    """Every metric that a system has, in the order of first appearance."""
    return list(dict.fromkeys(name for system in systems for name in system.metrics))


def best_of_each(systems: tuple[System, ...]) -> dict[str, str]:
    """The system with the largest mean, by metric; nothing is marked where only one
    system has it, where two are equal, or where more is not better (coverage, popularity)."""
    best = {}
    for metric in metric_columns(systems):
        having = [system for system in systems if metric in system.metrics]
        largest = max(system.metrics[metric].mean for system in having)
        leaders = [system.name for system in having if system.metrics[metric].mean == largest]
        if len(having) > 1 == len(leaders) and metric.partition("@")[0] in _MORE_IS_BETTER:
            best[metric] = leaders[0]
    return best


def ranked(report: Report) -> list[System]:
    """Systems by the headline metric, best first; those without it last."""
    return sorted(
        report.systems,
        key=lambda s: -s.metrics[report.headline].mean if report.headline in s.metrics else float("inf"),
    )


def column_bounds(systems: tuple[System, ...]) -> dict[str, tuple[float, float]]:
    """The scale that the small intervals of a column share."""
    return {
        metric: padded([edge for s in systems if metric in s.metrics for edge in _edges(s, metric)])
        for metric in metric_columns(systems)
    }


def config_rows(systems: tuple[System, ...]) -> dict[str, dict[str, str]]:
    """Settings by system with their values as text, keys sorted."""
    return {s.name: {key: str(s.config[key]) for key in sorted(s.config)} for s in systems if s.config}


def parts_of(data: DataFacts | None) -> list[str]:
    """The parts of the split that the timeline shows, in the order of time."""
    timeline = data.timeline if data else None
    return list(dict.fromkeys(timeline.parts)) if timeline else []


def _edges(system: System, metric: str) -> tuple[float, float, float]:
    estimate = system.metrics[metric]
    return estimate.low, estimate.mean, estimate.high


def _environment() -> Any:
    try:
        import jinja2
    except ImportError:
        raise UsageError(
            "the HTML report needs jinja2, which is not installed",
            where="recengine.reports",
            fix="pip install 'recengine[report]'",
        ) from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("recengine.reports", _TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawn"] = jinja2.filters.do_mark_safe
    environment.globals.update(figures=figures, words=words)
    return environment
