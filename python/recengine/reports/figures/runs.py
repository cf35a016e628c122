"""Every run of every system on one axis: how far seeds scatter beside how far systems lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recengine.reports.scale import Scale, padded, round_ticks
from recengine.reports.svg import Drawing
from recengine.reports.words import score, short

_WIDTH, _LABELS, _RIGHT, _ROW, _TOP, _FOOT = 860.0, 150.0, 150.0, 40.0, 12.0, 44.0


def runs_figure(runs: Mapping[str, Sequence[float]], unit: str, shades: Mapping[str, int], key: str) -> str:
    """A row a system, best first; a dot a run, a bar at their mean."""
    ordered = sorted(runs, key=lambda name: -_mean(runs[name]))
    said = "; ".join(f"{name}: {', '.join(score(value) for value in runs[name])}" for name in ordered)
    height = _TOP + _ROW * len(ordered) + _FOOT
    drawing = Drawing(_WIDTH, height, key=key, title=f"{unit} of every run", description=said)
    low, high = padded([value for values in runs.values() for value in values], share=0.08)
    scale = Scale(low, high, _LABELS, _WIDTH - _RIGHT)
    bottom = _TOP + _ROW * len(ordered)
    for tick in round_ticks(low, high, 6):
        drawing.line((scale(tick), _TOP), (scale(tick), bottom), "grid")
        drawing.text((scale(tick), bottom + 18), short(tick), "tick", anchor="middle")
    middle = (_LABELS + _WIDTH - _RIGHT) / 2
    drawing.text((middle, bottom + 36), f"{unit}, a dot a run", "axis-title", anchor="middle")
    for index, name in enumerate(ordered):
        y = _TOP + _ROW * (index + 0.5)
        values, shade = runs[name], shades[name]
        drawing.text((_LABELS - 18, y + 5), name, "label strong" if index == 0 else "label", anchor="end")
        mean = scale(_mean(values))
        drawing.line((mean, y - 13), (mean, y + 13), f"cap s{shade}")
        for number, value in enumerate(values):
            tip = f"{name}, run {number + 1}: {score(value)}"
            drawing.marker((scale(value), y), shade - 1, f"dot s{shade}", size=5.0, tip=tip)
        drawing.text((_WIDTH - _RIGHT + 16, y + 5), score(_mean(values)), "value")
    return drawing.render()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
