"""A corpus of broken files: each must be refused with its place, and none may crash."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recengine.data import read
from recengine.errors import DataError, RecengineError

HEAD = b"user,item,rating,timestamp\n"
ROWS = b"".join(b"%d,%d,4.0,%d\n" % (n % 7, n % 11, 1000 + n) for n in range(40))
GOOD = HEAD + ROWS

# name: content, words of the problem, words of the place
CORPUS = {
    "missing item column": (b"user,rating\n1,5\n", "item id", "line 1"),
    "missing user column": (b"person,item\n1,5\n", "user id", "line 1"),
    "duplicated column": (b"user,item,item\n1,2,3\n", "twice", "line 1, column 'item'"),
    "empty": (b"", "empty", "bad.csv"),
    "only blank lines": (b"\n\n\n", "empty", "bad.csv"),
    "only a header": (HEAD, "no rows", "line 2"),
    "nan weight": (GOOD + b"1,2,NaN,5\n", "not finite", "line 42, column 'rating'"),
    "infinite weight": (GOOD + b"1,2,-inf,5\n", "not finite", "line 42, column 'rating'"),
    "text weight": (GOOD + b"1,2,good,5\n", "not a number", "line 42, column 'rating'"),
    "missing weight": (GOOD + b"1,2,,5\n", "missing", "line 42, column 'rating'"),
    "nan id": (GOOD + b"NaN,2,1,5\n", "missing", "line 42, column 'user'"),
    "missing id": (GOOD + b",2,1,5\n", "missing", "line 42, column 'user'"),
    "missing text id": (b"user,item\na,b\nc,d\nnull,b\n", "missing", "line 4, column 'user'"),
    "negative id": (GOOD + b"-3,2,1,5\n", "negative", "line 42, column 'user'"),
    "overflowing id": (GOOD + b"1,99999999999999999999,1,5\n", "64 bits", "line 42, column 'item'"),
    "mixed types": (GOOD + b"1,banana,1,5\n", "mixes types", "line 42, column 'item'"),
    "fractional id": (GOOD + b"1,2.5,1,5\n", "mixes types", "line 42, column 'item'"),
    "time as text": (GOOD + b"1,2,1,yesterday\n", "text", "line 42, column 'timestamp'"),
    "missing time": (GOOD + b"1,2,1,\n", "missing", "line 42, column 'timestamp'"),
    "infinite time": (GOOD + b"1,2,1,inf\n", "whole number", "line 42, column 'timestamp'"),
    "too few fields": (GOOD + b"1,2\n" + ROWS, "number of fields", "line 42"),
    "too many fields": (GOOD + b"1,2,3,4,5\n" + ROWS, "number of fields", "line 42"),
    "not utf-8": (GOOD + b"1,2\xe9,1,5\n", "UTF-8", "line 42"),
    "utf-16": (GOOD.decode().encode("utf-16"), "text|UTF-8", "line 1"),
    "binary": (bytes(range(256)) * 20, "text", "line 1"),
    "blank line inside": (HEAD + ROWS + b"\n" + ROWS, "missing", "line 42"),
    "open quote": (b"user,item\n1,2\n" + b'3,"4\n' + b"5,6\n" * 20, "parsed|mixes", "bad.csv"),
}


@pytest.mark.parametrize("name", CORPUS)
def test_the_corpus_is_refused_with_its_place(tmp_path, name):
    content, problem, place = CORPUS[name]
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        read(path)
    assert place in caught.value.where
    assert caught.value.exit_code == 2
    assert caught.value.fix or caught.value.expected
    assert os.listdir(tmp_path) == ["bad.csv"]


def test_a_wrong_delimiter_is_suspected(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_bytes(GOOD)
    with pytest.raises(DataError, match="delimiter"):
        read(path, delimiter=";")


@pytest.mark.parametrize("cut", [5, 20, -9, -1])
def test_a_truncated_gzip_is_refused(tmp_path, cut):
    path = tmp_path / "bad.csv.gz"
    path.write_bytes(gzip.compress(GOOD)[:cut])
    with pytest.raises(DataError, match=r"gzip|empty"):
        read(path)


def test_what_is_no_gzip_and_what_is_no_parquet(tmp_path):
    path = tmp_path / "bad.csv.gz"
    path.write_bytes(GOOD)
    with pytest.raises(DataError, match="damaged"):
        read(path)
    table = tmp_path / "bad.parquet"
    pl.DataFrame({"user": [1], "item": [2]}).write_parquet(table)
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(DataError, match="Parquet"):
        read(table)
    matrix = tmp_path / "bad.npz"
    matrix.write_bytes(b"PK")
    with pytest.raises(DataError, match="sparse matrix"):
        read(matrix, layout="csr")


def test_what_is_no_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="no known layout"):
        read(tmp_path)
    with pytest.raises(DataError, match="folder"):
        read(tmp_path, layout="table")


def test_no_permission(tmp_path, monkeypatch):
    path = tmp_path / "secret.csv"
    path.write_bytes(GOOD)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)  # root reads everything, so a mode would prove nothing
    with pytest.raises(DataError, match="may not be read"):
        read(path, layout="table")


def test_no_permission_for_a_folder(tmp_path, monkeypatch):
    def refuse(_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match="folder may not be read"):
        read(tmp_path)


def test_parquet_values_are_checked_too(tmp_path):
    path = tmp_path / "bad.parquet"
    pl.DataFrame({"user": [1, None], "item": [2, 3]}).write_parquet(path)
    with pytest.raises(DataError, match="missing") as caught:
        read(path)
    assert "row 1, column 'user'" in caught.value.where


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=0, max_size=4), st.integers(0, 3), st.booleans())
def test_no_damage_crashes(tmp_path, position, inserted, removed, packed):
    damaged = GOOD[:position] + inserted + GOOD[position + removed :]
    path = tmp_path / ("d.csv.gz" if packed else "d.csv")
    raw = gzip.compress(GOOD, mtime=0)
    spot = position % len(raw)
    path.write_bytes(raw[:spot] + inserted + raw[spot + removed :] if packed else damaged)
    refused = None
    try:
        made = read(path)
    except RecengineError as error:
        refused = error
    assert refused.where if refused is not None else len(made) > 0
