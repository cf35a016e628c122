"""A metric by group: one dot with its interval for each model in each group, side by side."""

from __future__ import annotations

from recengine.reports.content import Estimate, Slices
from recengine.reports.scale import Scale, padded, round_ticks
from recengine.reports.svg import Drawing
from recengine.reports.words import count, metric_name, score, short

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _FOOT = 860.0, 300.0, 58.0, 12.0, 14.0, 62.0


def slices_figure(slices: Slices, shades: dict[str, int], key: str) -> str:
    """Groups from left to right, models in the order of their shade inside each, axis from zero."""
    estimates = [e for row in slices.values.values() for e in row if e is not None]
    drawing = Drawing(
        _WIDTH,
        _HEIGHT,
        key=key,
        title=f"{metric_name(slices.metric)} by {slices.group}",
        description=_said(slices),
    )
    low, high = padded([edge for e in estimates for edge in (e.low, e.high)], zero=True)
    bottom = _HEIGHT - _FOOT
    up = Scale(low, high, bottom, _TOP)
    for tick in round_ticks(low, high, 5):
        drawing.line((_LEFT, up(tick)), (_WIDTH - _RIGHT, up(tick)), "grid")
        drawing.text((_LEFT - 8, up(tick) + 4), short(tick), "tick", anchor="end")
    drawing.line((_LEFT, bottom), (_WIDTH - _RIGHT, bottom), "axis")
    room = (_WIDTH - _RIGHT - _LEFT) / max(len(slices.labels), 1)
    unit = f" {slices.unit}" if len(slices.labels) < 8 else ""
    x_title = slices.group if unit else f"{slices.group}, and below it the number of {slices.unit}"
    names = sorted(slices.values, key=lambda name: shades[name])
    gap = min(22.0, room * 0.7 / max(len(names), 1))
    for group, label in enumerate(slices.labels):
        middle = _LEFT + room * (group + 0.5)
        drawing.text((middle, bottom + 18), label, "label", anchor="middle")
        drawing.text((middle, bottom + 34), f"{count(slices.counts[group])}{unit}", "tick", anchor="middle")
        for index, name in enumerate(names):
            estimate = slices.values[name][group]
            if estimate is not None:
                x = middle + (index - (len(names) - 1) / 2) * gap
                _interval(drawing, estimate, x, up, shades[name], f"{name}, {label}: {score(estimate.mean)}")
    drawing.text(((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6), x_title, "axis-title", anchor="middle")
    return drawing.render()


def _interval(drawing: Drawing, estimate: Estimate, x: float, up: Scale, shade: int, tip: str) -> None:
    drawing.line((x, up(max(estimate.low, up.low))), (x, up(estimate.high)), f"span thin s{shade}")
    drawing.marker((x, up(estimate.mean)), shade - 1, f"dot s{shade}", size=5.2, tip=tip)


def _said(slices: Slices) -> str:
    rows = []
    for name, values in slices.values.items():
        cells = [
            f"{label} {score(e.mean)}"
            for label, e in zip(slices.labels, values, strict=True)
            if e is not None
        ]
        rows.append(f"{name}: " + ", ".join(cells))
    return "; ".join(rows)
