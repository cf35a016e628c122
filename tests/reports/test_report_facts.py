"""Facts, groups and intervals, against counts done by hand and against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from recengine.data import EvalTask, Interactions, Split
from recengine.reports.facts import (
    concentration,
    data_facts,
    length_bars,
    length_group,
    length_labels,
    time_unit,
    timeline,
)
from recengine.reports.slicing import (
    by_history_length,
    by_popularity,
    mean_with_interval,
    popularity_deciles,
    ratio_with_interval,
)

DAY = 86_400
START = 1_483_228_800  # 2017-01-01


def small_split() -> Split:
    """Three users, four items, a day an event; user 2 has one event, the last events of 0 and 1 are asked."""
    users = np.array([0, 0, 0, 1, 1, 2])
    items = np.array([0, 1, 2, 0, 1, 0])
    times = START + DAY * np.array([0, 1, 2, 0, 1, 1])
    train = Interactions.from_arrays(users, items, times, item_vocabulary=None)
    train = Interactions.from_arrays(
        users, items, times, item_vocabulary=type(train.items)(np.arange(4, dtype=np.int64))
    )
    test = EvalTask("test", np.array([0, 1]), np.array([0, 1, 3]), np.array([3, 2, 3]), train)
    return Split(train, None, test, {"strategy": "given"})


def test_facts_count_train_and_targets() -> None:
    facts = data_facts(small_split(), "small")
    assert (facts.rows, facts.users, facts.items) == (9, 3, 4)
    assert facts.density == pytest.approx(9 / 12)
    assert facts.median_length == 4
    assert sum(facts.lengths.heights) == 3


def test_length_groups_match_their_labels() -> None:
    assert length_labels() == ("1–5", "6–20", "21–50", "51–100", "101–200", "201+")
    assert length_group(np.array([1, 5, 6, 20, 21, 50, 51, 100, 101, 200, 201, 9999])).tolist() == [
        0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5,
    ]  # fmt: skip
    assert length_bars(np.array([1, 2, 300])).heights == (2, 0, 0, 0, 0, 1)


def test_concentration_of_one_loud_item() -> None:
    shares, taken = concentration(np.array([7] * 97 + [1, 2, 3]))
    assert shares == (0.25, 0.5, 0.75, 1.0)
    assert taken == pytest.approx((0.97, 0.98, 0.99, 1.0))


def test_time_units() -> None:
    assert time_unit(np.array([START, START + 5])) == 1
    assert time_unit(np.array([START * 1000])) == 1000
    assert time_unit(np.array([START * 10**9])) == 10**9
    assert time_unit(np.array([0, 1, 2])) is None
    assert time_unit(np.array([], np.int64)) is None


def test_timeline_breaks_at_the_border_and_loses_nothing() -> None:
    times = START + np.arange(100) * DAY
    parts = np.repeat([0, 1, 2], [72, 14, 14])
    bars = timeline(times, parts, 1)
    assert sum(bars.heights) == 100
    assert bars.parts.count("test") == 2
    assert bars.parts.count("validation") == 2
    assert bars.labels[bars.parts.index("test")] == "2017-03-28"
    mixed = timeline(times, parts[::-1].copy(), 1)
    assert mixed.parts == ()


def test_mean_interval_is_the_t_interval() -> None:
    values = np.array([0.0, 1.0, 1.0, 0.5, np.nan])
    got = mean_with_interval(values)
    assert got is not None
    low, high = stats.t.interval(0.95, 3, values[:4].mean(), stats.sem(values[:4]))
    assert (got.mean, got.low, got.high, got.n) == (pytest.approx(0.625), *map(pytest.approx, (low, high)), 4)
    assert mean_with_interval(np.array([1.0])) is None


def test_ratio_interval_covers_with_clustered_targets() -> None:
    """Targets of a user stand or fall together: 95 % intervals must hold their level at 200 users."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(1000):
        counts = rng.integers(1, 12, 200).astype(float)
        hits = counts * (rng.random(200) < 0.3)  # all or nothing
        got = ratio_with_interval(hits, counts)
        assert got is not None
        covered += got.low <= 0.3 <= got.high
    assert 0.92 <= covered / 1000 <= 0.97


def test_ratio_without_two_users_is_none() -> None:
    assert ratio_with_interval(np.array([1.0, 0.0]), np.array([2.0, 0.0])) is None


def test_deciles_are_even_and_ordered() -> None:
    item = np.repeat(np.arange(20), np.arange(20))
    deciles = popularity_deciles(item, 20)
    assert deciles is not None
    assert deciles.tolist() == [i // 2 for i in range(20)]
    assert popularity_deciles(item, 9) is None


def test_slices_by_length_and_popularity() -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([3, 4, 30, 31])
    user = np.repeat(np.arange(4), lengths)
    item = np.concatenate([rng.permutation(40)[:n] for n in lengths])
    train = Interactions.from_arrays(
        user, item, item_vocabulary=type(small_split().train.items)(np.arange(40, dtype=np.int64))
    )
    task = EvalTask("test", np.arange(4), np.array([0, 1, 2, 3, 4]), np.array([0, 1, 2, 3]), train)
    by_length = by_history_length(task, {"a": np.array([0.0, 1.0, 1.0, 1.0])}, "ndcg@10")
    assert by_length is not None
    assert by_length.labels == ("1–5", "21–50")
    assert by_length.counts == (2, 2)
    first, second = by_length.values["a"]
    assert first is not None
    assert second is not None
    assert (first.mean, second.mean) == (0.5, 1.0)
    lists = np.array([[0, 9], [9, 1], [9, 8], [3, -1]])
    by_pop = by_popularity(task, train, {"a": lists})
    assert by_pop is not None
    assert sum(by_pop.counts) == 4
    assert by_pop.metric == "recall@2"


def test_one_group_is_no_slice() -> None:
    split = small_split()
    assert by_history_length(split.test, {"a": np.array([0.0, 1.0])}, "ndcg@10") is None


def test_cold_items_stand_apart() -> None:
    train = Interactions.from_arrays(
        np.repeat(np.arange(4), 5),
        np.tile(np.arange(5), 4),
        item_vocabulary=type(small_split().train.items)(np.arange(20, dtype=np.int64)),
    )
    task = EvalTask("test", np.arange(4), np.array([0, 1, 2, 3, 4]), np.array([19, 18, 0, 1]), train)
    found = by_popularity(task, train, {"a": np.array([[19], [0], [0], [2]])})
    assert found is not None
    assert found.labels[:2] == ("cold", "1")
    assert found.counts[0] == 2
    first = found.values["a"][0]
    assert first is not None
    assert first.mean == 0.5
    assert sum(found.counts) == 4
