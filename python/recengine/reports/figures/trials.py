"""A study: what every trial was worth, the best so far, and each setting against the value."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from recengine.reports.scale import Scale, log_ticks, padded, round_ticks
from recengine.reports.svg import Drawing
from recengine.reports.words import score, short

_LEFT, _RIGHT, _TOP, _FOOT = 58.0, 16.0, 30.0, 44.0

_CORNER = (4.0, 13.0)  # of the title of the upright axis


def trials_figure(numbers: Sequence[int], values: Sequence[float], unit: str, key: str) -> str:
    """A dot a trial, a stepped line at the best so far; the default is the first trial, drawn as a square."""
    width, height = 860.0, 260.0
    best = list(accumulate(values, max))
    said = f"{len(values)} trials; {unit} of the default {score(values[0])}, best {score(best[-1])}"
    drawing = Drawing(width, height, key=key, title=f"{unit} of every trial", description=said)
    drawing.text(_CORNER, unit, "axis-title", anchor="start")
    low, high = padded(values, share=0.1)
    across = Scale(min(numbers), max(numbers), _LEFT + 8, width - _RIGHT - 8)
    bottom = height - _FOOT
    up = Scale(low, high, bottom, _TOP)
    for tick in round_ticks(low, high, 5):
        drawing.line((_LEFT, up(tick)), (width - _RIGHT, up(tick)), "grid")
        drawing.text((_LEFT - 8, up(tick) + 4), short(tick), "tick", anchor="end")
    _trial_axis(drawing, numbers, across, bottom)
    steps = [(across(numbers[0]), up(best[0]))]
    for number, value in zip(numbers[1:], best[1:], strict=True):
        steps += [(across(number), steps[-1][1]), (across(number), up(value))]
    drawing.path(steps, "curve s2")
    for at, (number, value) in enumerate(zip(numbers, values, strict=True)):
        tip = f"trial {number}: {score(value)}" + (" (the default)" if at == 0 else "")
        drawing.marker(
            (across(number), up(value)),
            1 if at == 0 else 0,
            "dot s3" if at == 0 else "dot s1",
            size=4.2,
            tip=tip,
        )
    return drawing.render()


def changes_figure(numbers: Sequence[int], changed: Sequence[int], settings: int, key: str) -> str:
    """A dot a trial: how many of the ``settings`` it had away from the default."""
    width, height = 860.0, 200.0
    said = f"{len(changed)} trials; from {min(changed)} to {max(changed)} of {settings} settings changed"
    drawing = Drawing(width, height, key=key, title="changed settings of every trial", description=said)
    drawing.text(_CORNER, "settings changed", "axis-title", anchor="start")
    across = Scale(min(numbers), max(numbers), _LEFT + 8, width - _RIGHT - 8)
    bottom = height - _FOOT
    up = Scale(0.0, settings + 0.5, bottom, _TOP)
    for tick in round_ticks(0.0, float(settings), 5):
        if float(tick).is_integer():
            drawing.line((_LEFT, up(tick)), (width - _RIGHT, up(tick)), "grid")
            drawing.text((_LEFT - 8, up(tick) + 4), short(tick), "tick", anchor="end")
    _trial_axis(drawing, numbers, across, bottom)
    for number, count in zip(numbers, changed, strict=True):
        tip = f"trial {number}: {count} of {settings} changed"
        drawing.marker((across(number), up(count)), 0, "dot s1", size=4.2, tip=tip)
    return drawing.render()


def setting_figure(
    name: str, settings: Sequence[float | str], values: Sequence[float], log: bool, unit: str, key: str
) -> str:
    """One setting against the value: numbers on an axis, choices side by side; the best trial ringed."""
    width, height = 420.0, 220.0
    labels = (
        list(dict.fromkeys(str(s) for s in settings)) if any(isinstance(s, str) for s in settings) else []
    )
    places = [float(labels.index(str(s))) for s in settings] if labels else [float(s) for s in settings]
    best = max(range(len(values)), key=lambda index: values[index])
    said = f"best {score(values[best])} at {settings[best]}"
    drawing = Drawing(width, height, key=key, title=f"{unit} by {name}", description=said)
    drawing.text(_CORNER, unit, "axis-title", anchor="start")
    low, high = padded(values, share=0.1)
    bottom = height - _FOOT
    log = log and min(places) > 0 and not labels
    across = Scale(min(places), max(places), _LEFT + 22, width - _RIGHT - 22, log=log)
    up = Scale(low, high, bottom, _TOP)
    for tick in round_ticks(low, high, 4):
        drawing.line((_LEFT, up(tick)), (width - _RIGHT, up(tick)), "grid")
        drawing.text((_LEFT - 8, up(tick) + 4), short(tick), "tick", anchor="end")
    for at, text in _ticks(labels, min(places), max(places), log):
        drawing.text((across(at), bottom + 18), text, "tick", anchor="middle")
    drawing.line((_LEFT, bottom), (width - _RIGHT, bottom), "axis")
    for index, (place, value) in enumerate(zip(places, values, strict=True)):
        tip = f"{settings[index]}: {score(value)}"
        drawing.marker((across(place), up(value)), 0, "dot s1", size=3.6, tip=tip)
    drawing.marker((across(places[best]), up(values[best])), 0, "ring s2", size=7.0)
    drawing.text(((_LEFT + width - _RIGHT) / 2, height - 6), name, "axis-title", anchor="middle")
    return drawing.render()


def _ticks(labels: list[str], low: float, high: float, log: bool) -> list[tuple[float, str]]:
    if labels:
        return [(float(at), label) for at, label in enumerate(labels)]
    ticks = log_ticks(low, high) if log else round_ticks(low, high, 4)
    return [(tick, short(tick)) for tick in ticks]


def _trial_axis(drawing: Drawing, numbers: Sequence[int], across: Scale, bottom: float) -> None:
    """The axis at the bottom: whole trial numbers, and its title."""
    left, right = _LEFT, drawing.width - _RIGHT
    for tick in round_ticks(min(numbers), max(numbers), 8):
        if float(tick).is_integer():
            drawing.text((across(tick), bottom + 18), short(tick), "tick", anchor="middle")
    drawing.line((left, bottom), (right, bottom), "axis")
    drawing.text(((left + right) / 2, bottom + _FOOT - 6), "trial", "axis-title", anchor="middle")
