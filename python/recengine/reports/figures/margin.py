"""Recourse of one person: the worst near-optimal score against eps, and what each eps costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from recengine.reports.scale import Scale, padded, round_ticks
from recengine.reports.svg import Drawing, Point
from recengine.reports.words import short

_WIDTH, _HEIGHT, _TOP, _FOOT = 860.0, 330.0, 52.0, 52.0
_LEFT, _SPLIT, _RIGHT = 66.0, 490.0, 20.0

_STYLE = """<style>
svg { color-scheme: light dark; --card: #ffffff; --ink: #1d2327; --soft: #59636b; --grid: #e9e6df;
  --s1: #6b7780; --s2: #0b6e69; --s3: #c2500a; --s4: #4c51bf; font-family: system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --card: #1b2124; --ink: #e8e6e0; --soft: #a5aeb4; --grid: #2a3135;
  --s1: #a3b0b9; --s2: #4fc3ba; --s3: #f59a5b; --s4: #9aa2ff; } }
.paper { fill: var(--card); } text { fill: var(--ink); font-size: 13.5px; }
.tick { fill: var(--soft); font-size: 12px; }
.axis-title { fill: var(--soft); font-size: 12.5px; } .note { font-size: 12.5px; fill: var(--soft); }
.head { font-weight: 600; } .grid { stroke: var(--grid); } .axis { stroke: var(--soft); }
.rule { stroke: var(--soft); stroke-dasharray: 3 4; } .zero { stroke: var(--ink); stroke-width: 1.2; }
.curve { fill: none; stroke: currentColor; stroke-width: 2.2; stroke-linejoin: round; }
.dot { fill: currentColor; stroke: var(--card); stroke-width: 1.5; }
.s1 { color: var(--s1); } .s2 { color: var(--s2); } .s3 { color: var(--s3); } .s4 { color: var(--s4); }
text.s1, text.s2, text.s3, text.s4 { fill: currentColor; }
</style>"""


@dataclass(frozen=True)
class Line:
    """values[i] at grid[i]; NaN where there is none. dots: marks instead of a line."""

    label: str
    shade: int
    values: Sequence[float]
    dots: bool = False


@dataclass(frozen=True)
class MarginCurves:
    """grid of eps; lines of worst scores; the eps asked for and eps*; cost of an answer at each of
    ``cost_grid`` (NaN where there is none)."""

    title: str
    grid: Sequence[float]
    lines: Sequence[Line]
    eps: float
    largest: float
    cost_grid: Sequence[float] = field(default_factory=tuple)
    costs: Sequence[float] = field(default_factory=tuple)


def margin_figure(curves: MarginCurves, *, key: str = "margin") -> str:
    """A standalone SVG: left the margins against eps, right (where given) the price of robustness."""
    drawing = Drawing(_WIDTH, _HEIGHT, key=key, title=curves.title, description=_said(curves))
    drawing.bar(0, 0, _WIDTH, _HEIGHT, "paper")
    drawing.text((_LEFT, 22), curves.title, "head")
    right = _SPLIT if curves.costs else _WIDTH - _RIGHT
    _margins(drawing, curves, right)
    if curves.costs:
        _prices(drawing, curves)
    text = drawing.render()
    start = text.index(">") + 1
    return text[:start].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ') + _STYLE + text[start:]


def _margins(drawing: Drawing, curves: MarginCurves, right: float) -> None:
    values = [value for line in curves.lines for value in line.values if math.isfinite(value)]
    low, high = padded([*values, 0.0], share=0.1)
    across, up = _axes(drawing, curves, (low, high), _LEFT, right, "score of the worst near-optimal model")
    drawing.line((_LEFT, up(0.0)), (right, up(0.0)), "zero")
    drawing.text((right - 4, up(0.0) - 6), "accepted above 0", "note", anchor="end")
    for place, line in enumerate(curves.lines):
        points = [
            (across(eps), up(value))
            for eps, value in zip(curves.grid, line.values, strict=True)
            if math.isfinite(value)
        ]
        _draw(drawing, line, points)
        drawing.text((_LEFT + 130.0 * place, 40), line.label, f"s{line.shade}")


def _draw(drawing: Drawing, line: Line, points: list[Point]) -> None:
    if line.dots:
        for point in points:
            drawing.marker(point, 2, f"dot s{line.shade}", size=4.0)
    elif points:
        drawing.path(points, f"curve s{line.shade}")


def _prices(drawing: Drawing, curves: MarginCurves) -> None:
    pairs = [
        (eps, cost) for eps, cost in zip(curves.cost_grid, curves.costs, strict=True) if math.isfinite(cost)
    ]
    left, right = _SPLIT + 70.0, _WIDTH - _RIGHT
    _, high = padded([cost for _, cost in pairs] or [1.0], zero=True, share=0.1)
    across, up = _axes(
        drawing, curves, (0.0, high), left, right, "cost of the cheapest answer", label=_TOP + 34
    )
    points = [(across(eps), up(cost)) for eps, cost in pairs]
    if points:
        drawing.path(points, "curve s3")
    if len(pairs) < len(curves.costs):
        first = min(eps for eps, cost in zip(curves.cost_grid, curves.costs, strict=True) if math.isnan(cost))
        drawing.text((right, _TOP + 14), f"no answer at {short(first)} and beyond", "note", anchor="end")
    for (eps, cost), point in zip(pairs, points, strict=True):
        drawing.marker(point, 0, "dot s3", size=3.5, tip=f"eps {short(eps)}: cost {short(cost)}")


def _axes(
    drawing: Drawing,
    curves: MarginCurves,
    span: tuple[float, float],
    left: float,
    right: float,
    name: str,
    *,
    label: float = _HEIGHT - _FOOT - 8,
) -> tuple[Scale, Scale]:
    """Axes with the eps that was asked for; ``label``: the height of its name, where no curve runs."""
    bottom = _HEIGHT - _FOOT
    across, up = Scale(0.0, curves.largest, left, right), Scale(*span, bottom, _TOP)
    for tick in round_ticks(*span, 5):
        drawing.line((left, up(tick)), (right, up(tick)), "grid")
        drawing.text((left - 8, up(tick) + 4), short(tick), "tick", anchor="end")
    for tick in round_ticks(0.0, curves.largest, 5):
        drawing.text((across(tick), bottom + 18), short(tick), "tick", anchor="middle")
    drawing.line((left, bottom), (right, bottom), "axis")
    middle = (left + right) / 2
    drawing.text((middle, _HEIGHT - 10), "eps (to eps*: nobody beyond)", "axis-title", anchor="middle")
    drawing.text((left - 50, (_TOP + bottom) / 2), name, "axis-title", anchor="middle", turn=-90)
    at = across(min(curves.eps, curves.largest))
    drawing.line((at, _TOP), (at, bottom), "rule")
    far = at > middle
    words = f"asked: {short(curves.eps)}"
    drawing.text((at + (-6 if far else 6), label), words, "note", anchor="end" if far else "start")
    return across, up


def _said(curves: MarginCurves) -> str:
    parts = []
    for line in curves.lines:
        finite = [value for value in line.values if math.isfinite(value)]
        if finite:
            parts.append(f"{line.label}: from {short(finite[0])} to {short(finite[-1])}")
    return f"worst score against eps up to {short(curves.largest)}; " + "; ".join(parts)
