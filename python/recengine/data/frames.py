"""Tables to columns of interactions: every value checked, every complaint with its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recengine.data.columns import choose_columns
from recengine.data.vocabulary import Vocabulary, index_tokens
from recengine.errors import DataError

if TYPE_CHECKING:
    import polars as pl

_FORMS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M")
_INT64 = np.iinfo(np.int64)


@dataclass(frozen=True)
class Place:
    """Where a column comes from, for error messages. first_line: line of row 0 in a text file, or None
    for a table without lines."""

    source: str
    column: str
    first_line: int | None = None

    def __str__(self) -> str:
        return f"{self.source}, column '{self.column}'"

    def at(self, row: int) -> str:
        spot = f"row {row}" if self.first_line is None else f"line {row + self.first_line}"
        return f"{self.source}, {spot}, column '{self.column}'"


Indexed = tuple[Vocabulary, NDArray[np.int32]]


class FrameColumns(NamedTuple):
    """Checked columns in the order of the table: rows of the vocabularies, times, weights."""

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.int64] | None
    weight: NDArray[np.float32] | None
    users: Vocabulary
    items: Vocabulary


def columns_of_frame(frame: Any, names: Mapping[str, str | None]) -> FrameColumns:
    """The columns ``user``, ``item``, ``time`` and ``weight`` of a pandas, polars or Arrow table; see
    ``Interactions.from_frame``."""
    import narwhals.stable.v1 as nw

    try:
        table = nw.from_native(frame, eager_only=False, strict=True)
    except TypeError:
        raise DataError(
            "this is no table",
            where="table",
            found=type(frame).__name__,
            expected="a pandas, polars or Arrow table",
            fix="for columns use Interactions.from_arrays, for a matrix Interactions.from_csr",
        ) from None
    if isinstance(table, nw.LazyFrame):
        table = table.collect()
    chosen, _ = choose_columns(table.columns, names)
    if len(table) == 0:
        raise DataError("the table has no rows", where="table", expected="at least one interaction")
    source = "table"
    user = index_ids(_series(table[chosen["user"]]), Place(source, chosen["user"]))
    item = index_ids(_series(table[chosen["item"]]), Place(source, chosen["item"]))
    time = weight = None
    if "time" in chosen:
        time = whole_times(_series(table[chosen["time"]]), Place(source, chosen["time"]))
    if "weight" in chosen:
        weight = finite_weights(_series(table[chosen["weight"]]), Place(source, chosen["weight"]))
    return FrameColumns(user[1], item[1], time, weight, user[0], item[0])


def index_ids(column: pl.Series, place: Place) -> Indexed:
    """Vocabulary and rows of a column of ids. Raises DataError for missing, negative, fractional,
    overflowing or mixed ids."""
    import polars as pl

    _no_nulls(column, place, "an id")
    if column.dtype == pl.Object:
        raise _mixed(column, place)
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype == pl.String:
        return _index_text(column, place)
    if column.dtype.is_float():
        column = _whole(column, place, "an id")
    if not column.dtype.is_integer():
        raise DataError(
            f"a column of {column.dtype} cannot hold ids",
            where=place.at(0),
            found=_plainly(column[0]) if len(column) else None,
            expected="whole numbers or text",
            fix="name another column",
        )
    _in_range(column, place)
    return index_tokens(column.cast(pl.Int64).to_numpy())


def whole_times(column: pl.Series, place: Place, form: str | None = None) -> NDArray[np.int64]:
    """int64 times: whole numbers as they are, dates and date-times as seconds since 1970 (microseconds
    where fractions of a second occur), ISO 8601 text likewise, or text of the given form (strftime's signs).
    Raises DataError for anything else."""
    times, dated = micro_times(column, place, form)
    return times // 1_000_000 if dated and not bool((times % 1_000_000).any()) else times


def micro_times(column: pl.Series, place: Place, form: str | None = None) -> tuple[NDArray[np.int64], bool]:
    """int64 times in a unit that does not depend on the rows, for columns that are read in batches: whole
    numbers as they are, dates, date-times and text of them as microseconds since 1970; and whether they are
    dates. Raises DataError for anything else."""
    import polars as pl

    _no_nulls(column, place, "a time")
    if column.dtype == pl.String:
        column = _dates_of_text(column, place) if form is None else _dates_of_form(column, place, form)
    if column.dtype == pl.Date:
        column = column.cast(pl.Datetime("us"))
    if isinstance(column.dtype, pl.Datetime):
        return column.dt.timestamp("us").to_numpy(), True
    if column.dtype.is_float():
        column = _whole(column, place, "a time")
    if not column.dtype.is_integer():
        raise DataError(
            f"a column of {column.dtype} cannot hold times",
            where=place.at(0),
            found=_plainly(column[0]) if len(column) else None,
            expected="whole numbers, dates or ISO 8601 text",
            fix="convert it, or name another column",
        )
    _fits(column, place, "a time")
    return column.cast(pl.Int64).to_numpy(), False


def finite_weights(column: pl.Series, place: Place) -> NDArray[np.float32]:
    """float32 weights. Raises DataError for missing, text, NaN and infinite values."""
    import polars as pl

    _no_nulls(column, place, "a weight")
    if not column.dtype.is_numeric():
        numbers = column.cast(pl.Float64, strict=False) if column.dtype == pl.String else None
        if numbers is None or numbers.null_count():
            row = 0 if numbers is None else int(numbers.is_null().arg_max() or 0)
            raise DataError(
                "a weight is not a number",
                where=place.at(row),
                found=repr(column[row]),
                expected="a finite number",
                fix="mend the value, or leave the column out with weight=None and another name",
            )
        column = numbers
    values = column.cast(pl.Float32).to_numpy()
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            "a weight is not finite",
            where=place.at(row),
            found=repr(column[row]),
            expected="a finite number",
            fix="remove the row or give it a weight",
        )
    return values


def _plainly(value: Any) -> str:
    """A value of a column, in one line also where it is a list."""
    return repr(value.to_list() if hasattr(value, "to_list") else value)[:80]


def _series(column: Any) -> pl.Series:
    """A narwhals column as polars, without pyarrow where numpy is enough."""
    import polars as pl

    native = column.to_native()
    if isinstance(native, pl.Series):
        return native
    if hasattr(native, "combine_chunks"):  # an Arrow chunked array
        return _as_polars(pl.from_arrow(native))
    values = column.to_numpy()
    if values.dtype.kind != "O":
        return pl.Series(values)
    missing = column.is_null().to_numpy()
    kinds = {type(value) for value in values[~missing]}
    cleaned = [None if gone else value for gone, value in zip(missing, values, strict=True)]
    if len(kinds) > 1 and not kinds <= {int, np.int64, np.int32}:
        return pl.Series(cleaned, dtype=pl.Object)
    return pl.Series(cleaned)


def _as_polars(given: Any) -> pl.Series:
    import polars as pl

    assert isinstance(given, pl.Series)
    return given


def _index_text(column: pl.Series, place: Place) -> Indexed:
    import polars as pl

    known = column.unique().sort()
    if len(known) and known[0] == "":
        row = int((column == "").arg_max() or 0)
        raise DataError(
            "an id is empty", where=place.at(row), found="''", expected="an id", fix="remove the row"
        )
    rows = column.cast(pl.Enum(known)).to_physical().to_numpy().astype(np.int32)
    return Vocabulary(known.to_numpy().astype(np.str_)), rows


def _dates_of_text(column: pl.Series, place: Place) -> pl.Series:
    import polars as pl

    text = column.str.strip_chars()
    numbers = text.cast(pl.Int64, strict=False)
    if not numbers.null_count():
        return numbers
    for form in _FORMS:
        parsed = text.str.to_datetime(form, strict=False, time_unit="us")
        if not parsed.null_count():
            return parsed
    apart = text.str.replace(" ", "T", literal=True)  # pandas writes a space there
    zoned = apart.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", strict=False, time_unit="us", time_zone="UTC")
    if not zoned.null_count():
        return zoned.dt.replace_time_zone(None)
    best = min(
        (numbers, text.str.to_datetime("%Y-%m-%d", strict=False), zoned), key=lambda found: found.null_count()
    )
    row = int(best.is_null().arg_max() or 0)
    raise DataError(
        "a time is text that is no known form of a time",
        where=place.at(row),
        found=repr(column[row]),
        expected="a whole number, or ISO 8601 such as 2024-05-31 or 2024-05-31T18:00:00, one form throughout",
        fix="say its form (time_format='%d/%m/%Y'), convert the column, or leave it out",
    )


def _dates_of_form(column: pl.Series, place: Place, form: str) -> pl.Series:
    """Date-times of text in a form that the caller knows."""
    import polars as pl

    text = column.str.strip_chars()
    try:
        parsed = text.str.to_datetime(form, strict=False, time_unit="us")
    except pl.exceptions.PolarsError as refused:
        raise DataError(
            "this is no form of a time",
            where="time_format",
            found=repr(form),
            expected="the signs of strftime with day, month and year, such as '%d/%m/%Y' or '%m/%d/%Y %H:%M'",
        ) from refused
    if parsed.null_count():
        row = int(parsed.is_null().arg_max() or 0)
        raise DataError(
            "a time has another form",
            where=place.at(row),
            found=repr(column[row]),
            expected=f"the form {form!r}",
            fix="mend the value, or time_format",
        )
    return parsed if parsed.dtype.time_zone is None else parsed.dt.replace_time_zone(None)  # type: ignore[attr-defined]


def _no_nulls(column: pl.Series, place: Place, what: str) -> None:
    if len(column) == 0:
        raise DataError("there are no rows", where=place.source, expected="at least one interaction")
    if column.null_count():
        row = int(column.is_null().arg_max() or 0)
        raise DataError(
            f"{what} is missing",
            where=place.at(row),
            found="nothing",
            expected=f"{what} in every row",
            fix="remove the row or fill the value in (check the delimiter when a whole column is empty)",
        )


def _whole(column: pl.Series, place: Place, what: str) -> pl.Series:
    values = column.to_numpy().astype(np.float64)
    with np.errstate(invalid="ignore"):
        bad = ~np.isfinite(values) | (values != np.floor(values)) | (np.abs(values) >= 2.0**63)
    if bad.any():
        row = int(np.argmax(bad))
        missing = bool(np.isnan(values[row]))
        raise DataError(
            f"{what} is missing" if missing else f"{what} is not a whole number",
            where=place.at(row),
            found=repr(column[row]),
            expected="a whole number that fits into 64 bits",
            fix="remove the row or fill the value in" if missing else "round or convert the column",
        )
    import polars as pl

    return pl.Series(values.astype(np.int64))


def _in_range(column: pl.Series, place: Place) -> None:
    _fits(column, place, "an id")
    if column.dtype.is_signed_integer() and len(column) and int(np.asarray(column.min())) < 0:
        row = int((column < 0).arg_max() or 0)
        raise DataError(
            "an id is negative",
            where=place.at(row),
            found=repr(column[row]),
            expected="0 or more",
            fix="negative numbers usually stand for a missing id: remove the row, or pass the ids as text",
        )


def _fits(column: pl.Series, place: Place, what: str) -> None:
    import polars as pl

    if column.dtype == pl.UInt64 and len(column) and int(np.asarray(column.max())) > _INT64.max:
        row = int((column > _INT64.max).arg_max() or 0)
        raise DataError(
            f"{what} does not fit into 64 bits with sign",
            where=place.at(row),
            found=repr(column[row]),
            expected=f"at most {_INT64.max}",
            fix="pass the ids as text",
        )


def _mixed(column: pl.Series, place: Place) -> DataError:
    first = type(column[0])
    row = next(row for row in range(len(column)) if type(column[row]) is not first)
    return DataError(
        "the column mixes types",
        where=place.at(row),
        found=f"{column[row]!r} ({type(column[row]).__name__}) after {column[0]!r} ({first.__name__})",
        expected="one type throughout",
        fix="convert the whole column to text or to whole numbers",
    )
