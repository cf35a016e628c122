"""Splits: nothing of a test in its training, nothing lost, order respected, one vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recengine.data import (
    Interactions,
    SplitConfig,
    cold_items,
    cold_targets,
    cold_users,
    first_meetings,
    history_buckets,
    k_core,
    reshuffle_ties,
    split,
    split_parts,
)
from recengine.errors import DataError, UsageError

columns = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 12), st.integers(0, 20)), min_size=12, max_size=120
).map(lambda rows: np.array(rows, np.int64).T)
strategies = st.sampled_from(
    ["leave_one_out", "leave_two_out", "strict_leave_two_out", "ratio_random", "ratio_time", "time_point"]
)


def pairs(interactions: Interactions) -> list[tuple[int, int]]:
    return list(zip(interactions.user.tolist(), interactions.item.tolist(), strict=True))


def asked(task) -> list[tuple[int, int]]:
    return [] if task is None else list(zip(task.target_users().tolist(), task.targets.tolist(), strict=True))


@settings(max_examples=200, deadline=None)
@given(columns, strategies, st.integers(0, 3))
def test_parts_are_disjoint_whole_and_in_order(given_columns, strategy, seed):
    user, item, time = given_columns
    made = Interactions.from_arrays(user, item, time, seed=seed)
    config = SplitConfig(
        strategy=strategy,
        seed=seed,
        min_history=0,
        **({"test_from": 15, "validation_from": 9} if strategy == "time_point" else {}),
    )
    try:
        parts = split(made, config)
    except DataError as nothing_left:
        assume("nothing" not in nothing_left.problem)
        raise
    train, validation, test = pairs(parts.train), asked(parts.validation), asked(parts.test)
    assert not set(train) & set(test)
    assert not set(train) & set(validation)
    assert not set(validation) & set(test)
    assert sorted(train + validation + test) == sorted(pairs(first_meetings(made)))
    assert parts.train.users is made.users
    assert parts.test.history.items is made.items
    expected = train if strategy == "strict_leave_two_out" else train + validation
    assert sorted(pairs(parts.test.history)) == sorted(expected)
    if strategy != "ratio_random":
        for task in (parts.validation, parts.test):
            if task is not None:
                _assert_history_is_older(task)


def _assert_history_is_older(task):
    for place, user in enumerate(task.users.tolist()):
        begin, end = task.history.indptr[user : user + 2]
        if end > begin:
            times = task.times[task.indptr[place] : task.indptr[place + 1]]
            assert task.history.time[begin:end].max() <= times.min()


def sequence(ties="hash", seed=0):
    user = np.repeat([0, 1, 2], [4, 3, 1])
    return Interactions.from_arrays(
        user, [1, 2, 3, 4, 1, 2, 3, 9], [1, 2, 3, 4, 1, 2, 3, 1], ties=ties, seed=seed
    )


def test_leave_two_out_by_hand():
    made = sequence()
    parts = split(made, SplitConfig(strategy="leave_two_out"))
    items = made.items.tokens
    assert items[parts.validation.targets].tolist() == [3, 2]
    assert items[parts.test.targets].tolist() == [4, 3]
    assert parts.test.users.tolist() == [0, 1]  # user 2 has nothing to answer from
    assert len(parts.train) == 4
    assert len(parts.test.history) == 6
    strict = split(made, SplitConfig(strategy="strict_leave_two_out"))
    assert len(strict.test.history) == 4
    one = split(made, SplitConfig(strategy="leave_one_out"))
    assert one.validation is None
    assert len(one.train) == 6


def test_time_point_by_spans_and_first_meetings():
    user, item = np.zeros(8, np.int64), np.array([1, 2, 3, 1, 4, 2, 5, 4])
    made = Interactions.from_arrays(user, item, np.arange(10, 90, 10))
    config = SplitConfig(
        strategy="time_point", test_span=30, validation_span=20, repeats="keep", targets="first"
    )
    parts = split(made, config)
    assert parts.description["test_from"] == 51
    assert parts.description["validation_from"] == 31
    assert made.items.tokens[parts.validation.targets].tolist() == [4]
    assert made.items.tokens[parts.test.targets].tolist() == [5]
    assert len(parts.train) == 3
    assert len(parts.test.history) == 5


def test_ties_fall_by_hash_unless_rows_are_vouched_for():
    n = 4000
    user = np.repeat(np.arange(n), 3)
    item = np.tile([1, 2, 3], n)
    last = split(Interactions.from_arrays(user, item, np.zeros(3 * n, np.int64))).test.targets
    share = (last == 2).mean()
    assert 0.3 < share < 0.37
    rows = Interactions.from_arrays(user, item, np.zeros(3 * n, np.int64), ties="rows")
    assert (split(rows).test.targets == 2).all()
    other = split(Interactions.from_arrays(user, item, np.zeros(3 * n, np.int64), seed=1)).test.targets
    assert (last != other).mean() > 0.5


def test_an_order_that_nobody_vouched_for_is_refused():
    made = Interactions.from_arrays([1, 1, 1], [1, 2, 3])
    with pytest.raises(DataError, match="order in time"):
        split(made, SplitConfig(strategy="leave_one_out"))
    assert split(Interactions.from_arrays([1] * 20, np.arange(20))).description["strategy"] == "ratio_random"


def test_settings_that_do_not_fit():
    made = sequence()
    for wrong in (
        {"strategy": "time_point"},
        {"strategy": "time_point", "test_from": 2, "validation_from": 3},
        {"strategy": "ratio_time", "test_share": 0.6, "validation_share": 0.5},
    ):
        with pytest.raises(UsageError):
            split(made, SplitConfig(**wrong))
    with pytest.raises(DataError, match="nothing to train on"):
        split(made, SplitConfig(strategy="time_point", test_from=0))


def test_given_parts():
    train = Interactions.from_arrays([1, 1, 2], ["a", "b", "a"])
    test = Interactions.from_arrays([1, 2], ["c", "b"])
    joined = split_parts(train, test)
    parts = split(joined)
    assert parts.description["strategy"] == "given"
    assert joined.items.tokens[parts.test.targets].tolist() == ["c", "b"]
    assert len(parts.train) == 3
    assert parts.validation is None


def test_ratio_takes_the_share():
    made = Interactions.from_arrays(
        np.repeat(np.arange(10), 20), np.tile(np.arange(20), 10), np.tile(np.arange(20), 10)
    )
    parts = split(made, SplitConfig(strategy="ratio_random", test_share=0.2, validation_share=0.1))
    assert np.diff(parts.test.indptr).tolist() == [4] * 10
    assert np.diff(parts.validation.indptr).tolist() == [2] * 10
    again = split(made, SplitConfig(strategy="ratio_random", test_share=0.2, validation_share=0.1))
    assert np.array_equal(parts.test.targets, again.test.targets)
    other = split(made, SplitConfig(strategy="ratio_random", test_share=0.2, validation_share=0.1, seed=1))
    assert not np.array_equal(parts.test.targets, other.test.targets)


@settings(max_examples=60, deadline=None)
@given(columns, st.integers(1, 4))
def test_k_core(given_columns, k):
    user, item, _ = given_columns
    made = first_meetings(Interactions.from_arrays(user, item))
    try:
        core = k_core(made, k)
    except DataError:
        return
    assert core.lengths().min() >= k
    assert core.popularity().min() >= k


def test_k_core_of_nothing_says_so():
    with pytest.raises(DataError, match="no interactions are left"):
        k_core(Interactions.from_arrays([1, 2], [1, 2]), 2)


def test_groups():
    user = np.repeat([0, 1, 2, 3], [6, 7, 30, 1])
    item = np.concatenate([np.arange(6), np.arange(7), np.arange(30), [99]])
    made = Interactions.from_arrays(
        user, item, np.concatenate([np.arange(6), np.arange(7), np.arange(30), [50]])
    )
    parts = split(made, SplitConfig(strategy="leave_one_out"))
    groups = history_buckets(parts.test)
    assert [groups.names[code] for code in groups.codes] == ["1-5", "6-20", "21+"]
    assert groups.members("6-20").tolist() == [1]
    late = split(made, SplitConfig(strategy="time_point", test_from=25, min_history=0))
    assert late.test.users.tolist() == [2, 3]
    assert cold_users(late.test, late.train).tolist() == [False, True]
    assert cold_items(late.train).sum() == 6
    assert cold_targets(late.test, late.train).all()
    assert split(made, SplitConfig(strategy="time_point", test_from=25)).test.users.tolist() == [2]


def test_reshuffled_ties_keep_events_and_times():
    rng = np.random.default_rng(1)
    made = Interactions.from_arrays(
        rng.integers(0, 20, 600), rng.integers(0, 50, 600), rng.integers(0, 4, 600)
    )
    first, second = reshuffle_ties(made, 0, 7), reshuffle_ties(made, 1, 7)
    assert np.array_equal(first.item, reshuffle_ties(made, 0, 7).item)
    assert not np.array_equal(first.item, second.item)
    assert np.array_equal(first.time, made.time)

    def events(x):
        return sorted(zip(x.user.tolist(), x.item.tolist(), x.time.tolist(), x.source.tolist(), strict=True))

    assert events(first) == events(made)
    # a function of the event, not of what else is in the table: a part shuffles as the whole does
    half = made.select(made.user < 10)
    assert np.array_equal(reshuffle_ties(half, 1, 7).item, second.item[second.user < 10])
    vouched = Interactions.from_arrays([1, 1], [2, 3], [0, 0], ties="rows")
    assert reshuffle_ties(vouched, 3, 0) is vouched
