"""Dot-and-interval plots: the headline figure, and the small one that sits in a table cell."""

from __future__ import annotations

from collections.abc import Sequence

from recengine.reports.content import Estimate, System
from recengine.reports.scale import Scale, padded, round_ticks
from recengine.reports.svg import Drawing
from recengine.reports.words import metric_name, score, short, span

_LABELS, _RIGHT, _ROW, _TOP, _FOOT = 150.0, 150.0, 46.0, 14.0, 44.0


def headline_figure(systems: Sequence[System], metric: str, shades: dict[str, int], key: str) -> str:
    """Mean and 95 % interval of ``metric``, a row a system, best first, on an axis that starts at zero."""
    rows = sorted(
        ((system.name, system.metrics[metric]) for system in systems if metric in system.metrics),
        key=lambda row: -row[1].mean,
    )
    width, height = 860.0, _TOP + _ROW * len(rows) + _FOOT
    said = "; ".join(f"{name} {score(e.mean)} ({span(e)})" for name, e in rows)
    drawing = Drawing(
        width, height, key=key, title=f"{metric_name(metric)} of each model", description=said or "no figures"
    )
    low, high = padded([edge for _, e in rows for edge in (e.low, e.mean, e.high)], zero=True)
    scale = Scale(low, high, _LABELS, width - _RIGHT)
    bottom = _TOP + _ROW * len(rows)
    for tick in round_ticks(low, high, 6):
        drawing.line((scale(tick), _TOP), (scale(tick), bottom), "grid")
        drawing.text((scale(tick), bottom + 18), short(tick), "tick", anchor="middle")
    drawing.text(
        ((_LABELS + width - _RIGHT) / 2, bottom + 36),
        f"{metric_name(metric)}, 95 % interval",
        "axis-title",
        anchor="middle",
    )
    for index, (name, estimate) in enumerate(rows):
        middle = _TOP + _ROW * (index + 0.5)
        shade = shades[name]
        drawing.text(
            (_LABELS - 18, middle + 5), name, "label strong" if index == 0 else "label", anchor="end"
        )
        if estimate.has_interval:
            drawing.line((scale(estimate.low), middle), (scale(estimate.high), middle), f"span s{shade}")
            for edge in (estimate.low, estimate.high):
                drawing.line((scale(edge), middle - 6), (scale(edge), middle + 6), f"cap s{shade}")
        drawing.marker((scale(estimate.mean), middle), shade - 1, f"dot s{shade}", size=7.5)
        drawing.text(
            (width - _RIGHT + 16, middle + 1), score(estimate.mean), "value strong" if index == 0 else "value"
        )
        drawing.text((width - _RIGHT + 16, middle + 16), span(estimate), "tick")
    return drawing.render()


def mini_interval(estimate: Estimate, bounds: tuple[float, float], shade: int, key: str) -> str:
    """The interval of one cell on the scale that its column shares; decoration beside the printed numbers."""
    width, middle = 120.0, 8.0
    scale = Scale(*bounds, 6.0, width - 6.0)
    said = f"{score(estimate.mean)} ({span(estimate)})"
    drawing = Drawing(width, 16.0, key=key, title="position in the column", description=said)
    drawing.line((0, middle), (width, middle), "grid")
    if estimate.has_interval:
        drawing.line((scale(estimate.low), middle), (scale(estimate.high), middle), f"span thin s{shade}")
    drawing.marker((scale(estimate.mean), middle), shade - 1, f"dot s{shade}", size=4.2)
    return drawing.render()
