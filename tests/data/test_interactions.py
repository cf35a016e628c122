"""The store: one order, ids both ways, nothing lost on the way to disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from recengine.data import Interactions, Vocabulary, storage, tie_hash
from recengine.data.ordering import canonical_order
from recengine.errors import DataError

events = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 9), st.integers(-3, 3)), min_size=1, max_size=60
).map(lambda rows: np.array(rows, np.int64).T)


@settings(max_examples=150, deadline=None)
@given(events, st.sampled_from(["hash", "rows"]), st.integers(0, 5), st.sampled_from([1, 10**6, 2**61]))
def test_order_equals_lexsort(columns, ties, seed, scale):
    user, _, time = columns
    time = time * scale
    rows = np.arange(user.size, dtype=np.int64)
    key = rows if ties == "rows" else tie_hash(rows, seed)
    expected = np.lexsort((key, time, user))
    assert np.array_equal(canonical_order(user.astype(np.int32), time, ties, seed), expected)
    expected = np.lexsort((key, user))
    assert np.array_equal(canonical_order(user.astype(np.int32), None, ties, seed), expected)


@settings(max_examples=60, deadline=None)
@given(events, st.booleans())
def test_every_event_is_kept_under_its_own_ids(columns, text):
    user, item, time = columns
    ids = item.astype(str) if text else item * 7919 - 5 * (not text) + 5
    made = Interactions.from_arrays(user, ids, time)
    got = sorted(
        zip(
            made.users.tokens[made.user].tolist(),
            made.items.tokens[made.item].tolist(),
            made.time.tolist(),
            strict=True,
        )
    )
    assert got == sorted(zip(user.tolist(), ids.tolist(), time.tolist(), strict=True))
    assert np.array_equal(made.time, time[made.source])
    assert np.array_equal(made.indptr, np.searchsorted(made.user, np.arange(made.n_users + 1)))
    assert made.user.dtype == made.item.dtype == np.int32


def test_sparse_wide_integers_are_indexed():
    ids = np.array([2**62, 5, 2**62, 17])
    made = Interactions.from_arrays(np.zeros(4, np.int64), ids, np.arange(4))
    assert made.items.tokens.tolist() == [5, 17, 2**62]
    assert made.item.tolist() == [2, 0, 2, 1]
    assert made.items.rows(np.array([17, 6])).tolist() == [1, -1]


def test_unknown_id_of_a_given_vocabulary_is_named():
    with pytest.raises(DataError, match=r"column 'item', row 1") as caught:
        Interactions.from_arrays([1, 1], [3, 9], item_vocabulary=Vocabulary(np.array([3, 4])))
    assert "9" in caught.value.render()


@pytest.mark.parametrize(
    "make", [pd.DataFrame, pl.DataFrame, pa.table, lambda columns: pl.LazyFrame(columns)]
)
def test_any_frame(make):
    frame = make(
        {
            "userId": ["b", "a", "b"],
            "movieId": [10, 20, 30],
            "rating": [1.0, 2.0, 4.5],
            "timestamp": [3, 2, 1],
        }
    )
    made = Interactions.from_frame(frame)
    assert made.users.tokens.tolist() == ["a", "b"]
    assert made.items.tokens[made.item].tolist() == [20, 30, 10]
    assert made.weight.tolist() == [2.0, 4.5, 1.0]
    assert made.time.tolist() == [2, 1, 3]


def test_frame_dates_become_seconds():
    frame = pl.DataFrame({"user": [1, 1], "item": [1, 2], "time": ["2024-01-02", "2024-01-01"]})
    assert Interactions.from_frame(frame).time.tolist() == [1704067200, 1704153600]
    fine = pl.DataFrame({"user": [1], "item": [1], "time": ["2024-01-01T00:00:00.25"]})
    assert Interactions.from_frame(fine).time.tolist() == [1704067200250000]


@pytest.mark.parametrize(
    ("columns", "problem", "place"),
    [
        ({"user": [1, 2], "thing": [1, 2]}, "item id", "line 1"),
        ({"user": [1, None], "item": [1, 2]}, "missing", "row 1, column 'user'"),
        ({"user": [1, -2], "item": [1, 2]}, "negative", "row 1"),
        ({"user": [1.0, 2.5], "item": [1, 2]}, "whole number", "row 1"),
        ({"user": [1.0, float("nan")], "item": [1, 2]}, "missing", "row 1"),
        ({"user": [1, 2], "item": ["a", ""]}, "empty", "row 1"),
        ({"user": pl.Series([1, 2**63], dtype=pl.UInt64), "item": [1, 2]}, "64 bits", "row 1"),
        ({"user": [1, 2], "item": [1, 2], "time": ["1", "yesterday"]}, "text", "row 1, column 'time'"),
        ({"user": [1, 2], "item": [1, 2], "rating": [1.0, float("inf")]}, "finite", "row 1"),
        ({"user": [1, 2], "item": [1, 2], "rating": ["5", "good"]}, "not a number", "row 1"),
        ({"user": pl.Series([], dtype=pl.Int64), "item": pl.Series([], dtype=pl.Int64)}, "no rows", "table"),
    ],
)
def test_bad_values_are_named(columns, problem, place):
    with pytest.raises(DataError, match=problem) as caught:
        Interactions.from_frame(pl.DataFrame(columns))
    assert place in caught.value.where


def test_mixed_types_of_pandas_are_named():
    with pytest.raises(DataError, match="mixes types") as caught:
        Interactions.from_frame(pd.DataFrame({"user": [1, "two", 3], "item": [1, 2, 3]}))
    assert "row 1" in caught.value.where


def test_what_is_no_table_is_refused():
    with pytest.raises(DataError, match="from_arrays"):
        Interactions.from_frame([1, 2])


def test_did_you_mean_a_column():
    with pytest.raises(DataError, match="did you mean 'thing'"):
        Interactions.from_frame(pl.DataFrame({"user": [1], "thing": [1]}), item="thin")


def test_csr_round_trip_and_duplicates():
    matrix = csr_matrix(np.array([[0, 2.0, 0], [1.0, 0, 3.0], [0, 0, 0]], np.float32))
    made = Interactions.from_csr(matrix)
    assert (made.n_users, made.n_items) == (3, 3)
    assert np.array_equal(made.csr("weights").toarray(), matrix.toarray())
    twice = Interactions.from_arrays([0, 0, 1], [5, 5, 6], weights=[1.0, 2.0, 4.0])
    assert twice.csr().toarray().tolist() == [[1, 0], [0, 1]]
    assert twice.csr("counts").toarray().tolist() == [[2, 0], [0, 1]]
    assert twice.csr("weights").toarray().tolist() == [[3, 0], [0, 4]]


def test_history_is_packed_recent_and_knows_strangers():
    made = Interactions.from_arrays([0, 0, 0, 1], [7, 8, 9, 7], [3, 1, 2, 5])
    packed = made.history([1, -1, 0], max_length=2)
    assert packed.offsets.tolist() == [0, 1, 1, 3]
    assert made.items.tokens[packed.items].tolist() == [7, 9, 7]
    assert packed.times.tolist() == [5, 2, 3]
    assert made.popularity().tolist() == [2, 1, 1]


def test_compact_drops_what_no_event_names():
    made = Interactions.from_arrays([3, 5, 9], ["x", "y", "z"], [1, 2, 3]).with_titles(["X", "Y", "Z"])
    small = made.select(np.array([True, False, True])).compact()
    assert small.users.tokens.tolist() == [3, 9]
    assert small.items.tokens.tolist() == ["x", "z"]
    assert small.item_titles.tolist() == ["X", "Z"]
    assert small.indptr.tolist() == [0, 1, 2]


@pytest.mark.parametrize("mapped", [False, True])
def test_save_and_load(tmp_path: Path, monkeypatch, mapped):
    monkeypatch.setattr(storage, "MAPPED_ABOVE", 0 if mapped else 2**40)
    n = 5000
    rng = np.random.default_rng(0)
    made = Interactions.from_arrays(
        rng.integers(0, 99, n),
        rng.integers(0, 50, n).astype(str),
        rng.integers(0, 9, n),
        rng.random(n),
        seed=3,
    ).with_titles(np.arange(50).astype(str))
    path = made.save(tmp_path / "store")
    made.save(path)  # a store may be replaced
    back = Interactions.load(path)
    assert isinstance(back.user, np.memmap) == mapped
    assert back.fingerprint() == made.fingerprint()
    assert np.array_equal(back.source, made.source)
    assert (back.ties, back.seed) == ("hash", 3)
    assert back.item_titles.tolist() == made.item_titles.tolist()
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


def test_damaged_stores_are_refused(tmp_path: Path):
    made = Interactions.from_arrays([1, 2], [3, 4], [5, 6])
    path = made.save(tmp_path / "store")
    with pytest.raises(DataError, match="something else"):
        made.save(tmp_path)
    with pytest.raises(DataError, match="no interaction store"):
        Interactions.load(tmp_path / "nowhere")
    (path / "item.npy").write_bytes((path / "item.npy").read_bytes()[:90])
    with pytest.raises(DataError, match=r"item\.npy"):
        Interactions.load(path)
    made.save(path)
    header = json.loads((path / storage.HEADER).read_text())
    (path / storage.HEADER).write_text(json.dumps(header | {"format": 99}))
    with pytest.raises(DataError, match="later version"):
        Interactions.load(path)


def test_fingerprint_sees_every_column():
    base = {"users": [1, 1, 2], "items": [1, 2, 1], "times": [1, 2, 3], "weights": [1.0, 1, 1]}
    prints = {Interactions.from_arrays(**base).fingerprint()}
    for change in (
        {"users": [1, 1, 3]},
        {"items": [1, 2, 2]},
        {"times": [1, 2, 4]},
        {"weights": [1.0, 2, 1]},
        {"weights": None},
        {"items": ["1", "2", "1"]},
    ):
        prints.add(Interactions.from_arrays(**(base | change)).fingerprint())
    assert len(prints) == 7


def test_importing_data_costs_no_torch_and_no_table_library():
    heavy = "('torch', 'polars', 'scipy', 'pandas')"
    code = f"import sys, recengine.data; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
