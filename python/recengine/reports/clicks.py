"""What click models showed, as the content of a report: metrics over rows, calibration, slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from recengine.errors import UsageError
from recengine.reports import words
from recengine.reports.content import Calibration, Estimate, Report, Slices, System
from recengine.reports.pieces import audit_entry, flat, settings_of, summary_of, training_curves
from recengine.training import ClickRun

if TYPE_CHECKING:
    from recengine.evaluation.click_result import ClickEvaluation
    from recengine.training import Run


def click_report(
    runs: Mapping[str, Run],
    *,
    title: str | None = None,
    asked: Sequence[str] = (),
    data_name: str = "data",
    headline: str | None = None,
) -> Report:
    """The report of click models asked about the same rows; see ``report_of``.

    Raises UsageError when some of the runs rank items, or were asked about other rows.
    """
    clicks = {name: run for name, run in runs.items() if isinstance(run, ClickRun)}
    if len(clicks) < len(runs):
        raise UsageError("some of these models rank items, the others predict clicks", where="reports")
    found = {name: run.evaluations.get("test") or run.evaluate("test") for name, run in clicks.items()}
    first, told = next(iter(clicks.values())), next(iter(found.values()))
    for name, other in found.items():
        if other.protocol.data != told.protocol.data:
            raise UsageError(
                f"'{name}' was not asked about the same rows", where="reports", fix="fit all on one split"
            )
    rows = words.count(told.rows.height)
    return Report(
        title=title or f"{words.listing(list(runs))} on {data_name}",
        asked=tuple(asked)
        or (
            f"How likely is a click, for each of {rows} rows that no model learned from?",
            f"The rows were divided by '{first.split.description.get('strategy', 'a given split')}'.",
        ),
        headline=headline or "auc",
        systems=tuple(
            System(
                name,
                summary_of(run),
                {e.metric: Estimate(e.mean, e.low, e.high, e.n) for e in found[name].summary()},
                training_curves(run),
                settings_of(run),
                float(sum(entry.get("seconds", 0.0) for entry in run.history)) or None,
            )
            for name, run in clicks.items()
        ),
        protocol=flat(told.protocol.describe()),
        protocol_hash=told.protocol.hash,
        audit=tuple(audit_entry(finding) for finding in first.findings),
        slices=tuple(_slices(found, feature) for feature in told.slices),
        calibration=tuple(_calibration(name, one) for name, one in found.items()),
        environment=flat(first.record) | {"seeds": ", ".join(sorted({str(r.seed) for r in clicks.values()}))},
        caveats=(
            "Each model was fitted with one seed: the intervals tell of other rows, not of other seeds.",
        ),
        made=f"{datetime.now(UTC):%Y-%m-%d}",
        unit="rows",
    )


def _calibration(name: str, found: ClickEvaluation) -> Calibration:
    bins = tuple((b.predicted, Estimate(b.observed, b.low, b.high, b.rows)) for b in found.bins)
    return Calibration(name, bins, found["ece"], found["brier"])


def _slices(found: Mapping[str, ClickEvaluation], feature: str) -> Slices:
    """AUC by value of a feature, with a normal interval from the number of rows (Hanley and McNeil)."""
    table = next(iter(found.values())).slices[feature]
    values = {
        name: tuple(_of_row(row) for row in one.slices[feature].iter_rows(named=True))
        for name, one in found.items()
    }
    return Slices(
        title=f"AUC by {feature}",
        note=f"Rows by value of {feature}, most frequent first; no AUC where all labels are the same.",
        metric="auc",
        group=feature,
        unit="rows",
        labels=tuple(table["value"].to_list()),
        counts=tuple(table["rows"].to_list()),
        values=values,
    )


def _of_row(row: Mapping[str, float | None]) -> Estimate | None:
    area, n = row["auc"], float(row["rows"] or 0)
    if area is None:
        return None
    p = round(n * float(row["clicked"] or 0))
    other = n - p
    q1, q2 = area / (2 - area), 2 * area * area / (1 + area)
    variance = (area * (1 - area) + (p - 1) * (q1 - area**2) + (other - 1) * (q2 - area**2)) / (p * other)
    half = 1.96 * max(0.0, variance) ** 0.5
    return Estimate(area, max(0.0, area - half), min(1.0, area + half), int(n))
