"""From values to rows of tables: text forms, vocabularies, hashing, numbers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recengine.data.clicks.schema import FeatureSpec
from recengine.data.frames import Place
from recengine.data.ordering import tie_hash
from recengine.errors import DataError

if TYPE_CHECKING:
    import polars as pl

MISSING, UNKNOWN, FIRST = 0, 1, 2  # rows of every table
_SAME = {"": None, "true": "1", "True": "1", "TRUE": "1", "false": "0", "False": "0", "FALSE": "0"}
_SAMPLED = 1 << 20  # most values that quantile bins are made of
_BLOCK = 1 << 16  # values whose mean is taken at once


@dataclass(frozen=True)
class Ragged:
    """Several values a row: row r has values[offsets[r]:offsets[r + 1]]. Values int32, offsets int64."""

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.offsets.shape[0]) - 1


def as_text(column: pl.Series, place: Place, rows: NDArray[np.int64] | None = None) -> pl.Series:
    """Values as text, one form a value: 3, 3.0 and "3" (or "3.0") are "3", True and "true" are "1"; NaN and
    '' are missing. rows: which row of the column each value is of, where a row has several. Raises DataError
    for what is no category: fractions, infinity, numbers of 2^63 and more in a float, structures."""
    import polars as pl

    if column.dtype.is_nested() or column.dtype == pl.Object:
        raise DataError(
            "the column holds several values a row",
            where=str(place),
            found=str(column.dtype),
            expected="one value a row",
            fix="declare the feature multi or sequence",
        )
    if column.dtype.is_float():
        column = column.fill_nan(None)
        wrong = (column != column.floor()) | (column.abs() >= 2.0**63)
        _no_category(column, wrong, place, rows)
        return column.cast(pl.Int64).cast(pl.String)
    if column.dtype.is_integer() or column.dtype == pl.Boolean:
        return column.cast(pl.Int8 if column.dtype == pl.Boolean else column.dtype).cast(pl.String)
    text = column.cast(pl.String)
    if text.str.contains(r"\.0+$").any():
        text = text.str.replace(r"^(-?[1-9][0-9]*|0)\.0+$", "${1}")
    if column.dtype.is_decimal():
        _no_category(column, text.str.contains(".", literal=True), place, rows)
    return text.replace(_SAME)


def _no_category(column: pl.Series, wrong: pl.Series, place: Place, rows: NDArray[np.int64] | None) -> None:
    """Raises DataError for the first number that is ``wrong``, if there is one."""
    if not wrong.any():
        return
    at = int(wrong.arg_max() or 0)
    fraction = abs(column[at]) < 2.0**63
    only_number = fraction and rows is None
    raise DataError(
        "a category is a fraction" if fraction else "a category is too large for a whole number",
        where=place.at(at if rows is None else int(rows[at])),
        found=column[at],
        expected="whole numbers or text",
        fix="declare the feature numeric" if only_number else "mend the value, or write the values as text",
    )


def as_lists(column: pl.Series, spec: FeatureSpec, place: Place) -> tuple[pl.Series, NDArray[np.int64]]:
    """Values of all rows one after another as text (``as_text``), and how many each row has. Missing values
    are left out; of a sequence the latest ``max_length`` are kept. Raises DataError for structures and
    fractions."""
    import polars as pl

    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if not isinstance(column.dtype, pl.List):  # text with a separator, or one value of any kind
        column = as_text(column, place).str.split(spec.separator)
    inner: Any = column.dtype
    if inner.inner.is_nested():
        raise DataError(
            "a list holds lists or structures",
            where=str(place),
            found=str(column.dtype),
            expected="lists of whole numbers or of text",
        )
    sizes = column.list.len().fill_null(0).to_numpy().astype(np.int64)
    rows = np.repeat(np.arange(len(column)), sizes)
    values = as_text(column.filter(pl.Series(sizes > 0)).explode(), place, rows)
    there = values.is_not_null()
    values, rows = values.filter(there), rows[there.to_numpy()]
    counts = np.bincount(rows, minlength=len(column))
    if spec.kind == "sequence":
        latest = np.cumsum(counts)[rows] - np.arange(rows.size) <= spec.max_length
        values, counts = values.filter(pl.Series(latest)), np.minimum(counts, spec.max_length)
    return values, counts


def as_numbers(column: pl.Series, place: Place) -> NDArray[np.float64]:
    """float64, NaN where missing, of whole numbers, floats, decimals and text of them. Raises DataError for
    columns of anything else (a date has no unit, true and false are categories), text that is no number and
    infinity."""
    import polars as pl

    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Null)):
        raise DataError(
            "the column holds no numbers",
            where=str(place),
            found=str(column.dtype),
            expected="one number a row: whole numbers, floats, decimals, or text of them",
            fix=_to_numbers(column.dtype),
        )
    made = column.cast(pl.Float64, strict=False)
    lost = column.is_not_null() & made.is_null()
    if column.dtype == pl.String:
        lost &= column != ""
    values = made.fill_null(np.nan).to_numpy()
    wrong = lost.fill_null(False).to_numpy() | np.isinf(values)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            "a value is no finite number",
            where=place.at(row),
            found=repr(column[row]),
            expected="a number, or nothing",
            fix="mend the value, or declare the feature categorical",
        )
    return values


def _to_numbers(kind: Any) -> str:
    import polars as pl

    if isinstance(kind, pl.List | pl.Array):
        return "make one number of each list, or declare the feature multi or sequence: values, not numbers"
    if kind == pl.Boolean:
        return "declare the feature categorical, or write 1 and 0"
    if kind.is_temporal():
        return "convert it to a number in a unit of your choice (the age in days), as in training"
    return "convert the column, or name another one"


def hashed(values: pl.Series, buckets: int) -> NDArray[np.int32]:
    """Rows FIRST to FIRST + buckets - 1 by 64 bits of BLAKE2 of the text: the same on every machine."""
    return (FIRST + text_hash(values).astype(np.uint64) % np.uint64(buckets)).astype(np.int32)


def text_hash(values: pl.Series) -> NDArray[np.int64]:
    """A 64-bit hash of each text; that of nothing is 0."""
    import polars as pl

    known = values.drop_nulls().unique(maintain_order=True)
    codes = [
        int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
        for text in known
    ]
    return lookup(values, known, pl.Series(codes, dtype=pl.Int64), 0).to_numpy()


def lookup(values: pl.Series, old: pl.Series, new: pl.Series, default: int) -> pl.Series:
    """``new`` where ``values`` is in ``old``, else ``default`` (nothing is ``default`` too)."""
    if len(old) == 0:
        return values.is_null().cast(new.dtype) * 0 + default
    return values.replace_strict(old, new, default=default, return_dtype=new.dtype).fill_null(default)


@dataclass
class Numbers:
    """What training says of a number: mean and deviation of the transformed value, or bin edges."""

    mean: float = 0.0
    deviation: float = 1.0
    edges: list[float] = field(default_factory=list)

    def bins(self, values: NDArray[np.float64]) -> NDArray[np.int32]:
        """Row 0 where missing, FIRST + number of edges at or below the value elsewhere."""
        placed = FIRST + np.searchsorted(np.asarray(self.edges), values, side="right")
        return np.where(np.isnan(values), MISSING, placed).astype(np.int32)

    def scaled(self, values: NDArray[np.float64], transform: str) -> NDArray[np.float32]:
        """(x - mean) / deviation of the transformed value; 0, the mean, where missing."""
        out = (transformed(values, transform) - self.mean) / self.deviation
        return np.where(np.isnan(out), 0.0, out).astype(np.float32)


def transformed(values: NDArray[np.float64], transform: str) -> NDArray[np.float64]:
    """sign(x) log(1 + |x|) for 'log', else x."""
    return np.sign(values) * np.log1p(np.abs(values)) if transform == "log" else values


class NumberFit:
    """Mean and squared deviations of the training values of a number; a sample of them for quantiles. Values
    are taken in by blocks of one size, so that the result is the same whatever the batches.

    The sample has the values whose place among all values hashes to a number of at most ``most``, which is
    halved whenever they become too many: every value has the same chance, early or late.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec, self.n, self.mean, self.squares = spec, 0, 0.0, 0.0
        self.sample: list[tuple[NDArray[np.uint64], NDArray[np.float64]]] = []
        self.most = np.uint64(2**64 - 1)
        self.waiting = np.zeros(0)

    def see(self, values: NDArray[np.float64]) -> None:
        """Take in a batch."""
        known = transformed(values[~np.isnan(values)], self.spec.transform)
        self.waiting = np.concatenate([self.waiting, known])
        while self.waiting.size >= _BLOCK:
            self._add(self.waiting[:_BLOCK])
            self.waiting = self.waiting[_BLOCK:]

    def done(self) -> Numbers:
        """Mean and deviation (1 where the number never changes), or the edges of bins with equal counts."""
        self._add(self.waiting)
        self.waiting = np.zeros(0)
        if self.spec.transform == "buckets":
            values = np.concatenate([values for _, values in self.sample] or [np.zeros(0)])
            inner = np.arange(1, self.spec.buckets) / self.spec.buckets
            edges = np.unique(np.quantile(values, inner)) if values.size else np.zeros(0)
            return Numbers(edges=[float(edge) for edge in edges])
        if self.spec.transform == "none" or self.n == 0:
            return Numbers()
        deviation = (self.squares / self.n) ** 0.5
        return Numbers(self.mean, deviation if deviation > 1e-12 * max(1.0, abs(self.mean)) else 1.0)

    def _add(self, block: NDArray[np.float64]) -> None:
        """Deviations from the block's own mean, then from the common one (Chan et al., 1983): a sum of
        squares less the square of the sum would lose the deviation of large numbers that differ little."""
        if not block.size:
            return
        mean, n = float(block.mean()), self.n + block.size
        apart = mean - self.mean
        self.squares += float(((block - mean) ** 2).sum()) + apart**2 * self.n * block.size / n
        self.mean += apart * block.size / n
        if self.spec.transform == "buckets":
            self.sample.append((tie_hash(np.arange(self.n, n), 0xB175), block))
            self._thin()
        self.n = n

    def _thin(self) -> None:
        if self.most < np.uint64(2**64 - 1):
            self.sample[-1] = _at_most(self.most, *self.sample[-1])
        while sum(values.size for _, values in self.sample) > _SAMPLED:
            self.most //= np.uint64(2)
            self.sample = [_at_most(self.most, *kept) for kept in self.sample]


def _at_most(
    most: np.uint64, keys: NDArray[np.uint64], values: NDArray[np.float64]
) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    kept = keys <= most
    return keys[kept], values[kept]


class ValueCount:
    """In how many training rows each value occurred."""

    def __init__(self) -> None:
        self.parts: list[Any] = []

    def see(self, values: pl.Series, rows: NDArray[np.int64] | None) -> None:
        """Take in the texts of a batch of rows. rows: which row each is of; None: one a row."""
        import polars as pl

        found = pl.DataFrame({"value": values})
        if rows is not None:
            found = found.with_columns(row=pl.Series(rows)).unique()
        self.parts.append(found.drop_nulls().group_by("value").agg(pl.len().cast(pl.Int64).alias("n")))
        if len(self.parts) > 16:
            self.parts = [pl.concat(self.parts).group_by("value").agg(pl.col("n").sum())]

    def tokens(self, min_count: int) -> list[str]:
        """Values of at least ``min_count`` rows, sorted."""
        import polars as pl

        if not self.parts:
            return []
        total = pl.concat(self.parts).group_by("value").agg(pl.col("n").sum())
        return sorted(total.filter(pl.col("n") >= min_count)["value"].to_list())
