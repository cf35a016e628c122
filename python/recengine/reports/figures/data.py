"""Figures of the data: events over time, length of histories, how few items take most of the events."""

from __future__ import annotations

from recengine.reports.content import Bars
from recengine.reports.scale import Scale, round_ticks
from recengine.reports.svg import Drawing
from recengine.reports.words import count, percent, short

_LEFT, _RIGHT, _TOP, _FOOT = 58.0, 14.0, 16.0, 46.0


def lengths_figure(lengths: Bars, median: float, key: str) -> str:
    """Histogram of the number of events of a user."""
    said = ", ".join(f"{label}: {count(n)}" for label, n in zip(lengths.labels, lengths.heights, strict=True))
    drawing = Drawing(
        420,
        250,
        key=key,
        title=f"Length of histories, median {short(median)}",
        description=f"users by events: {said}",
    )
    _bars(drawing, lengths, "users", "events of a user", every=1)
    return drawing.render()


def timeline_figure(timeline: Bars, key: str) -> str:
    """Events in equal steps of time, coloured by the part of the split they fall in."""
    said = "; ".join(
        f"{part}: {timeline.labels[timeline.parts.index(part)]} onwards"
        for part in dict.fromkeys(timeline.parts)
    )
    drawing = Drawing(860, 210, key=key, title="Events over time", description=said)
    _bars(drawing, timeline, "events", "", every=max(1, -(-len(timeline.labels) // 8)))
    return drawing.render()


def concentration_figure(curve: tuple[tuple[float, ...], tuple[float, ...]], key: str) -> str:
    """Share of the events taken by the most popular share of items; the diagonal is an even spread."""
    shares, taken = curve
    tenth = taken_by_top_tenth(curve)
    drawing = Drawing(
        420,
        250,
        key=key,
        title="Concentration of popularity",
        description=f"the most popular tenth of the items takes {percent(tenth)} of the events",
    )
    across, up = Scale(0, 1, _LEFT, 420 - _RIGHT), Scale(0, 1, 250 - _FOOT, _TOP)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        drawing.line((_LEFT, up(tick)), (420 - _RIGHT, up(tick)), "grid")
        drawing.text((_LEFT - 8, up(tick) + 4), percent(tick) if tick else "0 %", "tick", anchor="end")
        side = "end" if tick == 1 else "middle"
        drawing.text((across(tick), 250 - _FOOT + 18), percent(tick) if tick else "0 %", "tick", anchor=side)
    drawing.line((across(0), up(0)), (across(1), up(1)), "rule")
    points = [(across(x), up(y)) for x, y in zip(shares, taken, strict=True)]
    drawing.path([(across(0), up(0)), *points, (across(1), up(0))], "area", closed=True)
    drawing.path([(across(0), up(0)), *points], "curve ink")
    at = across(0.1), up(tenth)
    drawing.marker(at, 0, "dot ink", size=4.5)
    drawing.text(
        ((_LEFT + 420 - _RIGHT) / 2, 244), "items, most popular first", "axis-title", anchor="middle"
    )
    return drawing.render()


def _bars(drawing: Drawing, bars: Bars, unit: str, x_title: str, *, every: int) -> None:
    right, bottom = drawing.width - _RIGHT, drawing.height - _FOOT
    top = max(bars.heights, default=1.0) or 1.0
    up = Scale(0, top * 1.06, bottom, _TOP)
    for tick in round_ticks(0, top * 1.06, 4):
        drawing.line((_LEFT, up(tick)), (right, up(tick)), "grid")
        drawing.text((_LEFT - 8, up(tick) + 4), short(tick), "tick", anchor="end")
    room = (right - _LEFT) / max(len(bars.labels), 1)
    width = room * (0.78 if len(bars.labels) < 30 else 0.88)
    for index, (label, height) in enumerate(zip(bars.labels, bars.heights, strict=True)):
        x = _LEFT + room * index + (room - width) / 2
        part = bars.parts[index] if bars.parts else "plain"
        drawing.bar(
            x, up(height), width, bottom - up(height), f"bar {part}", f"{label}: {count(height)} {unit}"
        )
        if index % every == 0:
            middle, reach = x + width / 2, 3.7 * len(label)  # half a label, about
            at = min(middle, drawing.width - reach)
            drawing.text((at, bottom + 18), label, "tick", anchor="middle")
    drawing.line((_LEFT, bottom), (right, bottom), "axis")
    if x_title:
        drawing.text(((_LEFT + right) / 2, drawing.height - 6), x_title, "axis-title", anchor="middle")


def taken_by_top_tenth(curve: tuple[tuple[float, ...], tuple[float, ...]]) -> float:
    """Share of the events that the most popular tenth of the items takes."""
    shares, taken = curve
    return taken[min(range(len(shares)), key=lambda index: abs(shares[index] - 0.1))]
