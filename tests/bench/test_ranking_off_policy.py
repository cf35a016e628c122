"""The off-policy benchmark: weights, and intervals by drawing rows."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "ranking"))

import bench_off_policy as off


def drawn(n: int = 4000, seed: int = 0) -> off.Log:
    random = np.random.default_rng(seed)
    item, place = random.integers(0, 5, n), random.integers(0, 3, n)
    clicks = (random.random(n) < 0.1 + 0.1 * (item == 4)).astype(float)
    return off.Log(clicks, np.full(n, 0.2), place * 5 + item, 5)


def test_a_policy_asked_about_in_its_own_log_earns_the_plain_rate() -> None:
    log = drawn()
    told = off.estimated(log, log.chances, 50)
    assert told["effective"] == log.clicks.size
    for name in ("ips", "snips"):
        assert told[name] == pytest.approx(told["plain"], abs=1e-9)
    assert told["gain"] == pytest.approx([0, 0, 0], abs=1e-9)


def test_the_chances_of_the_other_policy_are_its_shares_at_a_position() -> None:
    often = off.Log(np.zeros(4), np.ones(4), np.array([0, 0, 1, 5]), 5)  # 0, 0, 1 at one place, 0 at the next
    asked = off.Log(np.zeros(4), np.ones(4), np.array([0, 1, 2, 5]), 5)
    assert off.shares(often, asked) == pytest.approx([2 / 3, 1 / 3, 0, 1])


def test_snips_finds_the_rate_of_a_policy_that_prefers_an_item() -> None:
    log = drawn(40_000)
    item = log.shown % 5
    told = off.estimated(log, np.where(item == 4, 0.6, 0.1), 200)
    assert told["snips"][1] < 0.6 * 0.2 + 0.4 * 0.1 < told["snips"][2]
    assert told["gain"][1] > 0


def test_bootstrap_intervals_are_those_of_the_binomial_rate() -> None:
    log = drawn()
    low, high = off.bootstrap(log.clicks, np.ones(log.clicks.size), 2000)["plain"]
    rate = log.clicks.mean()
    half = 1.96 * np.sqrt(rate * (1 - rate) / log.clicks.size)
    assert (low, high) == pytest.approx((rate - half, rate + half), abs=0.1 * half)
    assert off.bootstrap(log.clicks, np.ones(log.clicks.size), 20) == off.bootstrap(
        log.clicks, np.ones(log.clicks.size), 20
    )
