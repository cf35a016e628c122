"""The numbers of a report for machines: JSON of everything, CSV of every estimate in long form."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from recengine.reports.content import Estimate, Report

COLUMNS = ("section", "system", "metric", "group", "mean", "low", "high", "n")


def to_json(report: Report) -> str:
    """The whole report; keys as in ``content``, a number that is not finite as null."""
    return plain_json(report)


def plain_json(report: Any) -> str:
    """A dataclass as JSON; a number that is not finite as null."""
    return json.dumps(_plain(asdict(report)), indent=1, ensure_ascii=False, default=str) + "\n"


def to_csv(report: Report) -> str:
    """One line an estimate: overall metrics, slices, differences. Columns as in ``COLUMNS``."""
    return sheet(
        COLUMNS,
        [
            (section, system, metric, group, estimate.mean, estimate.low, estimate.high, estimate.n)
            for section, system, metric, group, estimate in _estimates(report)
        ],
    )


def sheet(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV text with a header; NaN is an empty cell."""
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([None if value != value else value for value in row] for row in rows)
    return made.getvalue()


def _estimates(report: Report) -> Iterator[tuple[str, str, str, str, Estimate]]:
    for system in report.systems:
        for metric, estimate in system.metrics.items():
            yield "overall", system.name, metric, "", estimate
    for slices in report.slices:
        for system_name, values in slices.values.items():
            for label, value in zip(slices.labels, values, strict=True):
                if value is not None:
                    yield f"by {slices.group}", system_name, slices.metric, label, value
    for one in report.calibration:
        for predicted, share in one.bins:
            yield "calibration", one.system, "observed share", f"{predicted:.6g}", share
    for difference in report.differences:
        name = f"{difference.better} - {difference.other}"
        yield "difference", name, difference.metric, "", difference.estimate


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if hasattr(value, "tolist"):  # numpy
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value
