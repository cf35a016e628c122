"""What the data of a split are: counts, history lengths, concentration, events over time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recengine.data import Split
from recengine.reports.content import Bars, DataFacts

LENGTH_EDGES = (0, 5, 20, 50, 100, 200)
_PARTS = ("train", "validation", "test")
_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY = 86_400
_WIDTHS = (3600, 6 * 3600, _DAY, 7 * _DAY, 28 * _DAY, 91 * _DAY, 365 * _DAY, 3653 * _DAY)  # bars, in seconds
_MOST_BARS = 60


@dataclass(frozen=True)
class Events:
    """All events of a split in one piece. part: 0 train, 1 validation, 2 test."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    time: NDArray[np.int64] | None
    part: NDArray[np.int64]


def data_facts(split: Split, name: str, notes: tuple[str, ...] = ()) -> DataFacts:
    """Facts of everything that the split learns from or asks about."""
    events = events_of(split)
    lengths = np.bincount(events.user, minlength=split.train.n_users)
    users, items = int((lengths > 0).sum()), int(np.unique(events.item).size)
    unit = None if events.time is None else time_unit(events.time)
    return DataFacts(
        name,
        int(events.user.size),
        users,
        items,
        np.unique(events.user * np.int64(split.train.n_items) + events.item).size / max(users * items, 1),
        None if events.time is None or unit is None else _span(events.time, unit),
        length_bars(lengths[lengths > 0]),
        concentration(events.item),
        float(np.median(lengths[lengths > 0])) if users else 0.0,
        None if events.time is None or unit is None else timeline(events.time, events.part, unit),
        notes,
    )


def events_of(split: Split) -> Events:
    """Training events, then the targets of the tasks with their times where the tasks know them."""
    users: list[NDArray[Any]] = [split.train.user]
    items: list[NDArray[Any]] = [split.train.item]
    times, parts = [split.train.time], [np.zeros(len(split.train), np.int64)]
    for part, task in ((1, split.validation), (2, split.test)):
        if task is not None:
            users.append(np.repeat(task.users, np.diff(task.indptr)))
            items.append(task.targets)
            times.append(getattr(task, "times", None))
            parts.append(np.full(task.targets.size, part, np.int64))
    known = [time for time in times if time is not None]
    return Events(
        np.concatenate(users).astype(np.int64),
        np.concatenate(items).astype(np.int64),
        np.concatenate(known) if len(known) == len(times) else None,
        np.concatenate(parts),
    )


def length_bars(lengths: NDArray[np.int64]) -> Bars:
    """Users by number of events, in the groups that the slices use too."""
    groups = length_group(lengths)
    counts = np.bincount(groups, minlength=len(LENGTH_EDGES))
    return Bars(length_labels(), tuple(float(n) for n in counts))


def length_labels() -> tuple[str, ...]:
    """'1–5', '6–20', ... , '201+'."""
    low = [edge + 1 for edge in LENGTH_EDGES]
    return (*(f"{a}–{b - 1}" for a, b in pairwise(low)), f"{low[-1]}+")


def length_group(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the group of each length (at least 1)."""
    return np.searchsorted(np.array(LENGTH_EDGES[1:]), lengths, side="left").astype(np.int64)


def concentration(items: NDArray[np.int64], points: int = 100) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Share of items (most popular first) and the share of events they take, at about ``points`` places."""
    counts = np.sort(np.bincount(items))[::-1]
    counts = counts[counts > 0]
    if not counts.size:
        return (1.0,), (1.0,)
    taken = np.cumsum(counts) / counts.sum()
    places = np.unique(np.ceil(np.linspace(1, counts.size, min(points, counts.size))).astype(int)) - 1
    return (
        tuple(float((place + 1) / counts.size) for place in places),
        tuple(float(taken[place]) for place in places),
    )


def time_unit(times: NDArray[np.int64]) -> int | None:
    """Ticks in a second when the numbers read as Unix times between 1975 and 2100, else None."""
    if not times.size:
        return None
    low, high = int(times.min()), int(times.max())
    for ticks in _SECOND.values():
        if 157_766_400 * ticks <= low and high <= 4_102_444_800 * ticks:
            return ticks
    return None


def timeline(times: NDArray[np.int64], parts: NDArray[np.int64], unit: int) -> Bars:
    """Events in steps of an hour to ten years; coloured by part where the parts follow one another in time,
    and then counted from the first moment of the test part, so that no bar lies across a border."""
    ends = [(int(times[parts == p].min()), int(times[parts == p].max())) for p in np.unique(parts)]
    apart = len(ends) > 1 and all(a[1] < b[0] for a, b in pairwise(ends))
    span = (int(times.max()) - int(times.min())) / unit
    width = next((w for w in _WIDTHS if span / w <= _MOST_BARS), _WIDTHS[-1]) * unit
    start = ends[-1][0] if apart else int(times.min())
    step = (times - start) // width
    first, last = int(step.min()), int(step.max())
    heights = np.bincount(step - first, minlength=last - first + 1)
    labels = tuple(_day(start + (first + index) * width, unit) for index in range(heights.size))
    names: tuple[str, ...] = ()
    if apart:
        by_part = np.zeros((3, heights.size))
        np.add.at(by_part, (parts, step - first), 1)
        names = tuple(_PARTS[int(np.argmax(column))] for column in by_part.T)
    return Bars(labels, tuple(float(n) for n in heights), names)


def _span(times: NDArray[np.int64], unit: int) -> tuple[str, str]:
    return _long_day(int(times.min()), unit), _long_day(int(times.max()), unit)


def _moment(time: int, unit: int) -> datetime:
    return datetime.fromtimestamp(time // unit, UTC)


def _day(time: int, unit: int) -> str:
    return _moment(time, unit).strftime("%Y-%m-%d")


def _long_day(time: int, unit: int) -> str:
    moment = _moment(time, unit)
    return f"{moment.day} {moment:%B %Y}"
