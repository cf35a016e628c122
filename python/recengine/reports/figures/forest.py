"""Differences with their intervals around zero, the margin of equivalence shaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recengine.reports.content import Estimate
from recengine.reports.scale import Scale, padded, round_ticks
from recengine.reports.svg import Drawing
from recengine.reports.words import short, signed

_WIDTH, _LABELS, _RIGHT, _ROW, _TOP, _FOOT = 860.0, 220.0, 190.0, 40.0, 30.0, 44.0


@dataclass(frozen=True)
class ForestRow:
    """outcome: better, worse, equal or undecided, of the first named against the second."""

    first: str
    second: str
    estimate: Estimate
    outcome: str


def forest_figure(rows: Sequence[ForestRow], unit: str, margin: float | None, key: str) -> str:
    """A row a pair: the interval of first minus second; filled where it is decided, hollow where not."""
    height = _TOP + _ROW * len(rows) + _FOOT
    said = "; ".join(
        f"{row.first} minus {row.second} {signed(row.estimate.mean)} "
        f"({signed(row.estimate.low)} to {signed(row.estimate.high)}), {row.outcome}"
        for row in rows
    )
    drawing = Drawing(_WIDTH, height, key=key, title=f"Differences in {unit}", description=said)
    edges = [0.0, *(edge for row in rows for edge in (row.estimate.low, row.estimate.high))]
    low, high = padded([*edges, *((-margin, margin) if margin else ())])
    scale = Scale(low, high, _LABELS, _WIDTH - _RIGHT)
    bottom = _TOP + _ROW * len(rows)
    if margin:
        drawing.bar(scale(-margin), _TOP, scale(margin) - scale(-margin), bottom - _TOP, "band")
    for tick in round_ticks(low, high, 6):
        drawing.line((scale(tick), _TOP), (scale(tick), bottom), "axis" if tick == 0 else "grid")
        drawing.text((scale(tick), bottom + 18), short(tick), "tick", anchor="middle")
    drawing.text((scale(0) - 10, _TOP - 10), "← second ahead", "note", anchor="end")
    drawing.text((scale(0) + 10, _TOP - 10), "first ahead →", "note")
    middle = (_LABELS + _WIDTH - _RIGHT) / 2
    drawing.text((middle, bottom + 36), f"difference in {unit}", "axis-title", anchor="middle")
    for index, row in enumerate(rows):
        y = _TOP + _ROW * (index + 0.5)
        css = {"better": "s2", "worse": "s3", "equal": "s4"}.get(row.outcome, "s1")
        drawing.text((_LABELS - 18, y + 5), f"{row.first} − {row.second}", "label", anchor="end")
        drawing.line((scale(row.estimate.low), y), (scale(row.estimate.high), y), f"span {css}")
        for edge in (row.estimate.low, row.estimate.high):
            drawing.line((scale(edge), y - 6), (scale(edge), y + 6), f"cap {css}")
        at = (scale(row.estimate.mean), y)
        drawing.marker(at, 0, f"{'ring' if row.outcome == 'undecided' else 'dot'} {css}", size=6.5)
        drawing.text((_WIDTH - _RIGHT + 16, y), row.outcome, "label strong")
        span = f"{signed(row.estimate.low)} to {signed(row.estimate.high)}"
        drawing.text((_WIDTH - _RIGHT + 16, y + 15), span, "tick")
    return drawing.render()
