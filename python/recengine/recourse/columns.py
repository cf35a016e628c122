"""From a table as people know it to the features of a classifier, and back.

A numeric column is one feature in its own unit; a text column is a category with one indicator feature a
level, named ``column=level``. Means and spreads are learnt from the training rows: the default cost of a
change is 1 for one standard deviation, and 1 for another level of a category.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recengine.config import did_you_mean
from recengine.errors import ConfigError, DataError, UsageError
from recengine.recourse.constraints import ConstraintFile, Constraints, compile_constraints

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """levels: of a category, empty for a number. mean, scale: of the training rows. whole: only integers."""

    name: str
    levels: tuple[str, ...] = ()
    mean: float = 0.0
    scale: float = 1.0
    whole: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(f"{self.name}={level}" for level in self.levels) if self.levels else (self.name,)


@dataclass(frozen=True)
class Change:
    """One column of one person: what it was, what it has to become; ``by`` and ``spreads`` for numbers."""

    column: str
    before: float | str
    after: float | str
    by: float | None = None
    spreads: float | None = None


def read_table(path: Path, *, header: Sequence[str] | None = None) -> pl.DataFrame:
    """A CSV (also .gz) or Parquet file; ``header`` names the columns of a file without a header line."""
    try:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path)
        else:
            frame = pl.read_csv(path, has_header=header is None, infer_schema_length=None)
    except FileNotFoundError as missing:
        raise DataError("there is no such file", where=str(path)) from missing
    except (pl.exceptions.PolarsError, OSError) as broken:
        raise DataError("not a table that can be read", where=str(path), found=str(broken)) from broken
    if header is not None:
        if len(header) != frame.width:
            raise DataError(
                "the header does not fit the table",
                where=str(path),
                found=f"{len(header)} names",
                expected=f"{frame.width} columns",
            )
        frame = frame.rename(dict(zip(frame.columns, header, strict=True)))
    frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))  # blank lines
    if frame.height == 0:
        raise DataError("the table has no rows", where=str(path))
    frame = frame.rename({name: name.strip() for name in frame.columns})
    frame = frame.with_columns(pl.col(pl.String).str.strip_chars())
    return frame.with_columns(_number_if_it_is(frame[name]) for name in frame.columns)


def _number_if_it_is(series: pl.Series) -> pl.Series:
    """Text that is numbers throughout (they had spaces around them) as numbers."""
    if series.dtype != pl.String:
        return series
    for kind in (pl.Int64, pl.Float64):
        numbers = series.cast(kind, strict=False)
        if numbers.null_count() == series.null_count() < len(series):
            return numbers
    return series


@dataclass(frozen=True)
class Columns:
    """The columns of a table in order; feature j belongs to column ``owner[j]``."""

    columns: tuple[Column, ...]

    @classmethod
    def learn(cls, table: pl.DataFrame, *, categories: Sequence[str] = ()) -> Columns:
        """Text, boolean and the named ``categories`` are categories, the rest numbers.

        Raises DataError for missing values, and for columns with one value only: nothing can be learnt
        about them.
        """
        made = []
        for name in categories:
            _known(name, table.columns, "categories")
        for name in table.columns:
            series = table[name]
            _complete(series, range(len(series)))
            if series.n_unique() < 2:
                raise DataError(
                    "the column has one value only", where=f"column '{name}'", found=series[0], fix="drop it"
                )
            if name in categories or not series.dtype.is_numeric():
                levels = tuple(sorted({_level(value) for value in series.to_list()}))
                made.append(Column(name, levels))
                continue
            values = series.cast(pl.Float64).to_numpy()
            whole = bool((values == np.round(values)).all())
            made.append(Column(name, (), float(values.mean()), float(values.std()), whole))
        return cls(tuple(made))

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(feature for column in self.columns for feature in column.features)

    @property
    def owner(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.columns)), [len(column.features) for column in self.columns])

    @property
    def centre(self) -> Array:
        """Subtracted before the classifier: means of numbers, 0 for indicators."""
        return np.concatenate(
            [np.zeros(len(c.levels)) if c.levels else np.array([c.mean]) for c in self.columns]
        )

    @property
    def scale(self) -> Array:
        """Divided by before the classifier: spreads of numbers, 1 for indicators."""
        return np.concatenate(
            [np.ones(len(c.levels)) if c.levels else np.array([c.scale]) for c in self.columns]
        )

    @property
    def units(self) -> Array:
        """Default cost of one unit: 1/spread for numbers, a half for each of the two changing indicators."""
        return np.concatenate(
            [np.full(len(c.levels), 0.5) if c.levels else np.array([1 / c.scale]) for c in self.columns]
        )

    def encode(self, table: pl.DataFrame, rows: Sequence[int] | None = None) -> Array:
        """Features [N, d] of the table's rows, or of ``rows`` in their order (others may be anything). Raises
        DataError for a missing column or value, an unknown level; it names the row's place in the table."""
        parts = []
        numbers = range(table.height) if rows is None else rows
        for column in self.columns:
            _known(column.name, table.columns, "table")
            series = table[column.name] if rows is None else table[column.name][list(rows)]
            _complete(series, numbers)
            if not column.levels:
                if not series.dtype.is_numeric():
                    words = series.cast(pl.Float64, strict=False).is_null()
                    at_fault = int(words.arg_max() or 0)
                    raise DataError(
                        "the column held numbers when the model was fitted",
                        where=f"row {numbers[at_fault]}, column '{column.name}'",
                        found=repr(series[at_fault]),
                        expected="a number",
                    )
                parts.append(series.cast(pl.Float64).to_numpy()[:, None])
                continue
            at = {level: i for i, level in enumerate(column.levels)}
            codes = np.zeros(len(series), np.int64)
            for row, value in enumerate(series.to_list()):
                level = _level(value)
                if level not in at:
                    near = did_you_mean(level, column.levels)
                    raise DataError(
                        "a category that the model does not know",
                        where=f"row {numbers[row]}, column '{column.name}'",
                        found=repr(level),
                        expected="one of " + ", ".join(column.levels),
                        fix=f"did you mean '{near}'?" if near else None,
                    )
                codes[row] = at[level]
            parts.append(np.eye(len(at))[codes])
        return np.ascontiguousarray(np.concatenate(parts, axis=1))

    def compile(
        self, given: Mapping[str, Any], *, where: str = "constraints", whole: bool = True
    ) -> Constraints:
        """Constraints in terms of columns, compiled for the features.

        A rule for a category takes ``immutable``, ``allowed`` (levels) and ``cost`` (of another level).
        whole: numbers that were whole in all training rows stay whole, unless the file says otherwise.
        """
        rules = ConstraintFile.parse(given, where=where)
        by_name = {column.name: column for column in self.columns}
        features: dict[str, Any] = {}
        for name in rules.features:
            if name not in by_name and name not in self.features:
                near = did_you_mean(name, list(by_name))
                raise ConfigError(
                    f"there is no column '{name}'",
                    where=f"{where}, features",
                    expected="one of " + ", ".join(by_name),
                    fix=f"did you mean '{near}'?" if near else None,
                )
        for name, rule in rules.features.items():
            found = by_name.get(name)
            if found is None or not found.levels:
                features[name] = rule.model_dump(exclude_unset=True)
            else:
                features |= _category_rule(found, rule, where)
        if whole:
            for column in self.columns:
                if column.whole and not column.levels:
                    features[column.name] = {"integer": True} | features.get(column.name, {})
        groups = {name: rule.model_dump() for name, rule in rules.groups.items()}
        groups |= {c.name: {"features": c.features} for c in self.columns if c.levels}
        mapping = {
            "features": features,
            "groups": groups,
            "linked": [link.model_dump() for link in rules.linked],
            "linear": [linear.model_dump() for linear in rules.linear],
        }
        return compile_constraints(mapping, self.features, where=where, units=self.units)

    def changes(self, before: Array, after: Array) -> list[Change]:
        """What differs between two points [d], column by column, the largest move first."""
        made: list[tuple[float, Change]] = []
        start = 0
        for column in self.columns:
            at = slice(start, start + len(column.features))
            start = at.stop
            if np.array_equal(before[at], after[at]):
                continue
            if column.levels:
                old, new = (column.levels[int(np.argmax(point[at]))] for point in (before, after))
                made.append((1.0, Change(column.name, old, new)))
            else:
                old_value, new_value = float(before[at][0]), float(after[at][0])
                by = new_value - old_value
                spreads = by / column.scale
                made.append((abs(spreads), Change(column.name, old_value, new_value, by, spreads)))
        return [change for _, change in sorted(made, key=lambda pair: -pair[0])]

    def value(self, column: str, point: Array) -> float | str:
        """The value of one column at a point [d]."""
        start = 0
        for one in self.columns:
            at = slice(start, start + len(one.features))
            start = at.stop
            if one.name == column:
                return one.levels[int(np.argmax(point[at]))] if one.levels else float(point[at][0])
        raise UsageError(f"there is no column '{column}'")

    def as_dict(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [
            {"name": c.name, "levels": list(c.levels), "mean": c.mean, "scale": c.scale, "whole": c.whole}
            for c in self.columns
        ]

    @classmethod
    def from_dict(cls, given: Sequence[Mapping[str, Any]]) -> Columns:
        made = [Column(**{**one, "levels": tuple(one["levels"])}) for one in given]
        return cls(tuple(replace(column, name=str(column.name)) for column in made))


def _category_rule(column: Column, rule: Any, where: str) -> dict[str, Any]:
    """The rule of a category as rules of its indicators."""
    place = f"{where}, features.{column.name}"
    if rule.direction != "any" or rule.range is not None or rule.integer:
        raise ConfigError(
            "a category has no direction and no range", where=place, fix="use immutable, allowed or cost"
        )
    cost = {} if rule.cost is None else {"cost": rule.cost / 2}
    made = {feature: {"immutable": rule.immutable, **cost} for feature in column.features}
    if rule.allowed is not None:
        for level in rule.allowed:
            if str(level) not in column.levels:
                near = did_you_mean(str(level), column.levels)
                raise ConfigError(
                    f"'{column.name}' has no level '{level}'",
                    where=place,
                    expected="one of " + ", ".join(column.levels),
                    fix=f"did you mean '{near}'?" if near else None,
                )
        open_levels = {str(level) for level in rule.allowed}
        for level, feature in zip(column.levels, column.features, strict=True):
            if level not in open_levels:
                made[feature]["range"] = (0.0, 0.0)
    return made


def _level(value: Any) -> str:
    return str(value)


def _known(name: str, names: Sequence[str], where: str) -> None:
    if name not in names:
        near = did_you_mean(name, list(names))
        raise DataError(
            f"there is no column '{name}'",
            where=where,
            expected="one of " + ", ".join(names),
            fix=f"did you mean '{near}'?" if near else None,
        )


def _complete(series: pl.Series, numbers: Sequence[int]) -> None:
    """Raise DataError when a value is missing or not finite; ``numbers``: what its rows are called."""
    bad = series.is_null()
    if series.dtype.is_float():
        bad = bad | ~series.is_finite().fill_null(False)
    count = int(bad.sum())
    if count:
        row = numbers[int(bad.arg_max() or 0)]
        raise DataError(
            f"{count} values are missing or not finite",
            where=f"column '{series.name}', row {row}",
            fix="impute them, or drop the rows or the column",
        )
