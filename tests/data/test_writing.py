"""Tables that are written a batch at a time."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from recengine.data.writing import write_batches
from recengine.errors import DataError


def table(rows: int = 1000) -> pl.DataFrame:
    """A column of every kind that a file may hold, each with a value missing here and there."""
    n = pl.int_range(rows)
    kind = pl.Enum([f"k{j}" for j in range(7)])
    frame = pl.select(
        n.alias("row"),
        (n / 7).alias("float"),
        (n % 50).cast(pl.Int8).alias("small"),
        (n.cast(pl.UInt64) + 2**63).alias("large"),
        (n % 2 == 0).alias("flag"),
        ("t" + (n * 37 % rows).cast(pl.String)).alias("text"),
        ("c" + (n // 100).cast(pl.String)).cast(pl.Categorical).alias("category"),
        ("k" + (n % 7).cast(pl.String)).cast(kind).alias("enum"),
        n.cast(pl.Decimal(12, 3)).alias("decimal"),
        (pl.lit(date(2024, 1, 1)) + pl.duration(days=n)).alias("day"),
        pl.from_epoch(n, "s").dt.cast_time_unit("us").dt.replace_time_zone("Europe/Paris").alias("time"),
        (n * timedelta(seconds=1)).alias("lasted"),
        ("b" + n.cast(pl.String)).cast(pl.Binary).alias("bytes"),
        pl.concat_list(n, n + 1).alias("list"),
        pl.struct(n.alias("a"), (n / 2).alias("b")).alias("struct"),
    )
    some = pl.when(pl.col("row") % 11 > 0)
    return frame.with_columns(some.then(pl.exclude("row"))).with_columns(nothing=None)


@pytest.mark.parametrize("size", [1, 97, 1000, 5000])
def test_batches_make_the_file_that_the_table_makes(size: int, tmp_path: Path) -> None:
    whole = table(60 if size == 1 else 1000)
    out = tmp_path / "new" / "a=b[1]*.parquet"
    assert write_batches(out, whole.iter_slices(size)) == whole.height
    whole.write_parquet(tmp_path / "whole.parquet")
    assert_frame_equal(
        pl.read_parquet(out, glob=False), pl.read_parquet(tmp_path / "whole.parquet"), check_exact=True
    )
    assert list(out.parent.iterdir()) == [out]


def test_no_more_than_two_batches_are_alive(tmp_path: Path) -> None:
    given: list[weakref.ref[pl.DataFrame]] = []
    alive = []

    def made() -> Iterator[pl.DataFrame]:
        for at in range(20):
            batch = pl.DataFrame({"at": [at] * 10})
            given.append(weakref.ref(batch))
            alive.append(sum(one() is not None for one in given))
            yield batch

    write_batches(tmp_path / "out.parquet", made())
    assert max(alive) == 2


@pytest.mark.parametrize("stop", [DataError("row 12 is wrong"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_what_ends_the_batches_leaves_the_old_file(stop: BaseException, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    out.write_bytes(b"old")

    def made() -> Iterator[pl.DataFrame]:
        yield table(10)
        raise stop

    with pytest.raises(type(stop)) as raised:
        write_batches(out, made())
    assert raised.value is stop
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_what_is_wrong_from_the_start_leaves_no_new_folder(tmp_path: Path) -> None:
    def made() -> Iterator[pl.DataFrame]:
        raise DataError("row 0 is wrong")
        yield table(10)

    with pytest.raises(DataError, match="row 0"):
        write_batches(tmp_path / "new" / "out.parquet", made())
    with pytest.raises(DataError, match="there is nothing to write"):
        write_batches(tmp_path / "new" / "out.parquet", [])
    assert not list(tmp_path.iterdir())


def test_a_failure_to_read_is_not_told_of_the_file_that_is_written(tmp_path: Path) -> None:
    def made() -> Iterator[pl.DataFrame]:
        yield table(10)
        raise DataError(
            "the file cannot be read", where="in.parquet", found="Input/output error (os error 5)"
        )

    with pytest.raises(DataError, match=r"in\.parquet: the file cannot be read"):
        write_batches(tmp_path / "out.parquet", made())


def test_columns_that_change_on_the_way_are_told(tmp_path: Path) -> None:
    batches = [pl.DataFrame({"a": [1, 2], "b": [[1], []]}), pl.DataFrame({"a": [0.5], "b": [[1]]})]
    with pytest.raises(DataError, match="from row 2 on: the columns change on the way") as told:
        write_batches(tmp_path / "out.parquet", batches)
    assert (told.value.found, told.value.expected) == ("a (Float64)", "a (Int64)")
    with pytest.raises(DataError, match="change on the way") as told:
        write_batches(tmp_path / "out.parquet", [batches[0], batches[0].select("b", "a")])
    assert (told.value.found, told.value.expected) == ("another order", "a, b")
    with pytest.raises(DataError, match="there is nothing to write"):
        write_batches(tmp_path / "out.parquet", [])
    assert not list(tmp_path.iterdir())
