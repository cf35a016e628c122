"""Axes and number words."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recengine.reports import words
from recengine.reports.scale import Scale, log_ticks, padded, round_ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 9))
def test_ticks_are_round_inside_and_few(low: float, width: float, wanted: int) -> None:
    high = low + width
    ticks = round_ticks(low, high, wanted)
    assert 1 <= len(ticks) <= 2 * wanted + 1
    assert all(low - width * 1e-6 <= tick <= high + width * 1e-6 for tick in ticks)
    steps = {round(b - a, 9) for a, b in pairwise(ticks)}
    assert len(steps) <= 2  # equal up to rounding


def test_ticks_of_known_ranges() -> None:
    assert round_ticks(0, 806, 4) == [0, 200, 400, 600, 800]
    assert round_ticks(0, 0.06, 6) == [0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    assert round_ticks(3, 3) == [3]
    assert round_ticks(math.nan, 1) != []
    assert log_ticks(100, 3000) == [100, 300, 1000, 3000]
    assert log_ticks(1, 1e4) == [1, 10, 100, 1e3, 1e4]


def test_scale_maps_ends_and_middle() -> None:
    assert Scale(0, 10, 100, 200)(5) == 150
    assert Scale(1, 100, 0, 10, log=True)(10) == pytest.approx(5)
    assert Scale(2, 2, 0, 10)(2) == 5


def test_padded_ranges() -> None:
    assert padded([]) == (0.0, 1.0)
    assert padded([1.0, 3.0], zero=True)[0] == 0.0
    low, high = padded([4.0])
    assert low < 4.0 < high


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.05534, "0.0553"), (-0.0021, "−0.0021"), (123.4, "123"), (math.nan, "–"), (0.0, "0.0000")],
)
def test_scores(value: float, said: str) -> None:
    assert words.score(value) == said


def test_words() -> None:
    assert words.count(1469307) == "1,469,307"
    assert [words.percent(x) for x in (0.5, 0.046, 0.0046)] == ["50 %", "4.6 %", "0.46 %"]
    assert words.listing(["a", "b", "c"]) == "a, b and c"
    assert words.metric_name("ndcg@10") == "NDCG@10"
    assert "first 20" in words.metric_meaning("recall@20")
    assert words.metric_meaning("mine@3") == ""
    assert [words.duration(s) for s in (0.2, 71.4, 300)] == ["under 1 s", "71 s", "5 min"]
    assert [words.short(v) for v in (1000.0, 0.00001, 12345678.0, 0.25)] == [
        "1,000",
        "1.0e−5",
        "1.2e7",
        "0.25",
    ]
