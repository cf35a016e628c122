"""Columns of text to ids, times and weights: what was meant, or the line where it breaks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recengine.data.frames import Indexed, Place, finite_weights, index_ids, whole_times
from recengine.data.readers.report import ReadReport
from recengine.errors import DataError

if TYPE_CHECKING:
    import polars as pl

_MISSING = ("nan", "null", "none", "n/a", "na", "<na>", "nat", "inf", "-inf")


def text_ids(column: pl.Series, place: Place, ids: str = "auto") -> Indexed:
    """Whole numbers where all are (and none has a leading zero), else text. A column of numbers with a few
    other values is an error, unless ids == 'text'."""
    import polars as pl

    if column.null_count() or ids == "text":
        return index_ids(_present(column, place), place)
    numbers = column.cast(pl.Int64, strict=False)
    strays = numbers.null_count()
    if strays == 0:
        written_otherwise = (column.str.starts_with("0") & (column != "0")) | column.str.starts_with("+")
        return index_ids(column if bool(written_otherwise.any()) else numbers, place)
    if strays * 2 > len(column):
        whole = column.cast(pl.Float64, strict=False)
        if whole.null_count() == 0 and bool(column.str.contains(r"^[+-]?[0-9]+\.0*$").all()):
            return index_ids(whole, place)
        if bool(column.str.contains(r"^[+-]?[0-9]+$").all()):
            raise _stray(column, numbers, place)
        return index_ids(_present(column, place), place)
    raise _stray(column, numbers, place)


def text_times(
    column: pl.Series, place: Place, report: ReadReport, form: str | None = None
) -> NDArray[np.int64]:
    """Whole numbers; decimal numbers without fractions; decimal numbers with fractions in millionths; dates
    and date-times in ISO 8601, or in the given form, as seconds since 1970."""
    import polars as pl

    if column.null_count() or form is not None:
        return whole_times(column, place, form)
    numbers = column.cast(pl.Int64, strict=False)
    if numbers.null_count() == 0:
        return whole_times(numbers, place)
    decimals = column.cast(pl.Float64, strict=False)
    if decimals.null_count() == 0:
        values = decimals.to_numpy()
        fractional = np.isfinite(values) & (values != np.floor(values))
        if fractional.any() and bool(np.isfinite(values).all()):
            report.say(f"{place.column} holds fractions: kept in millionths of its unit")
            return np.rint(values * 1e6).astype(np.int64)
        return whole_times(decimals, place)
    times = whole_times(column, place)
    report.say(f"{place.column} holds dates: kept as seconds since 1970")
    return times


def text_weights(column: pl.Series, place: Place) -> NDArray[np.float32]:
    """Finite numbers."""
    return finite_weights(column, place)


def _present(column: pl.Series, place: Place) -> pl.Series:
    """Text ids, none of which stands for a missing value."""
    suspects = [value for value in column.unique().drop_nulls().to_list() if value.lower() in _MISSING]
    if suspects:
        row = int((column == suspects[0]).arg_max() or 0)
        raise DataError(
            "an id is missing",
            where=place.at(row),
            found=repr(suspects[0]),
            expected="an id in every row",
            fix="remove the row",
        )
    return column


def _stray(column: pl.Series, numbers: pl.Series, place: Place) -> DataError:
    row = int(numbers.is_null().arg_max() or 0)
    value = str(column[row])
    if re.fullmatch(r"[+-]?[0-9]+", value):
        return DataError(
            "an id does not fit into 64 bits",
            where=place.at(row),
            found=value,
            expected=f"at most {np.iinfo(np.int64).max}",
            fix="read the ids as text: ids='text'",
        )
    missing = value.lower() in _MISSING
    return DataError(
        "an id is missing" if missing else "the column mixes types",
        where=place.at(row),
        found=repr(value),
        expected="a whole number, as in most rows",
        fix="remove the row" if missing else "mend the row, or read the ids as text: ids='text'",
    )
