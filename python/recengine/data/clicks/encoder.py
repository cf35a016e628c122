"""The encoder: learned from training rows, applied to every row, kept with the run as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recengine.data.clicks.coding import (
    FIRST,
    MISSING,
    UNKNOWN,
    NumberFit,
    Numbers,
    Ragged,
    ValueCount,
    as_lists,
    as_numbers,
    as_text,
    hashed,
    lookup,
)
from recengine.data.clicks.log import need_column
from recengine.data.clicks.place import LogPlace
from recengine.data.clicks.schema import ClickDataConfig, FeatureSpec
from recengine.errors import CheckpointError

if TYPE_CHECKING:
    import polars as pl

FORMAT = 2  # 1: values were written as they came, "1.0" and "true" too
_FEW = 20  # values of which nothing is concluded
Column = NDArray[Any] | Ragged


@dataclass
class Seen:
    """What an encoding met: rows, missing values and unknown values by feature."""

    rows: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureEncoder:
    """config: the features. vocabularies: known values by table, sorted. numbers: by feature."""

    config: ClickDataConfig
    vocabularies: dict[str, list[str]]
    numbers: dict[str, Numbers]

    @classmethod
    def fit(cls, config: ClickDataConfig, batches: Iterable[pl.DataFrame]) -> FeatureEncoder:
        """Learn vocabularies and scales from batches of training rows, one at a time."""
        counts: dict[str, ValueCount] = {}
        numbers = {name: NumberFit(spec) for name, spec in config.features.items() if spec.kind == "numeric"}
        for name, spec in config.features.items():
            if spec.kind != "numeric" and config.table_of(spec).encoding == "vocabulary":
                counts.setdefault(spec.share or name, ValueCount())
        for frame in batches:
            for name, spec in config.features.items():
                if name in numbers:
                    numbers[name].see(as_numbers(*_column(frame, name, spec)))
            for table, count in counts.items():
                count.see(*_texts(frame, {n: s for n, s in config.features.items() if table in (n, s.share)}))
        vocabularies = {
            table: count.tokens(config.features[table].min_count or config.min_count)
            for table, count in counts.items()
        }
        return cls(config, vocabularies, {name: fit.done() for name, fit in numbers.items()})

    def encode(self, frame: pl.DataFrame, seen: Seen | None = None) -> dict[str, Column]:
        """Columns by feature: int32 rows [n], Ragged, or float32 [n].

        A missing value is row 0 (a number: the training mean), an unknown one row 1; a row without any value
        of a multi-valued feature has the one value 0. Columns that no feature uses are passed over. Raises
        DataError for a column that is not there or holds something else than the feature declares.
        """
        told = seen if seen is not None else Seen()
        told.rows += frame.height
        return {name: self._encoded(frame, name, spec, told) for name, spec in self.config.features.items()}

    def _encoded(self, frame: pl.DataFrame, name: str, spec: FeatureSpec, seen: Seen) -> Column:
        column, place = _column(frame, name, spec)
        if spec.kind == "numeric":
            values = as_numbers(column, place)
            _add(seen.missing, name, int(np.isnan(values).sum()))
            numbers = self.numbers[name]
            if spec.transform == "buckets":
                return numbers.bins(values)
            return numbers.scaled(values, spec.transform)
        if spec.kind == "categorical":
            text = as_text(column, place)
            rows = self._rows(text, name, spec, seen)
            absent = text.is_null().to_numpy()
            _add(seen.missing, name, int(absent.sum()))
            return np.where(absent, MISSING, rows).astype(np.int32)
        listed, counts = as_lists(column, spec, place)
        rows = self._rows(listed, name, spec, seen)
        empty = counts == 0
        _add(seen.missing, name, int(empty.sum()))
        sizes = np.maximum(counts, 1)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
        out = np.full(int(offsets[-1]), MISSING, np.int32)
        out[~np.repeat(empty, sizes)] = rows
        return Ragged(out, offsets)

    def _rows(self, text: pl.Series, name: str, spec: FeatureSpec, seen: Seen) -> NDArray[np.int32]:
        import polars as pl

        table = self.config.table_of(spec)
        if table.encoding == "hash":
            return hashed(text, table.buckets)
        tokens = pl.Series(self.vocabularies[spec.share or name], dtype=pl.String)
        places = pl.Series(np.arange(FIRST, FIRST + len(tokens), dtype=np.int32))
        rows = lookup(text, tokens, places, UNKNOWN).to_numpy()
        _add(seen.unknown, name, int((rows == UNKNOWN).sum()) - text.null_count())
        return rows

    def facts(self) -> list[dict[str, Any]]:
        """What a model must know of each feature (contracts.features.FeatureFact), as JSON."""
        told = []
        for name, spec in self.config.features.items():
            kind, size, table = "one", 0, spec.share or name
            if spec.kind == "numeric" and spec.transform == "buckets":
                size = FIRST + len(self.numbers[name].edges) + 1
            elif spec.kind == "numeric":
                kind = "number"
            else:
                own = self.config.table_of(spec)
                kind = "one" if spec.kind == "categorical" else "bag"
                size = FIRST + (own.buckets if own.encoding == "hash" else len(self.vocabularies[table]))
            told.append(
                {"name": name, "kind": kind, "table": table, "size": size, "group": spec.group or name}
            )
        return told

    def value_of(self, name: str, row: int) -> str:
        """What row ``row`` of the feature's table stands for, in words."""
        spec = self.config.features[name]
        tokens = self.vocabularies.get(spec.share or name)
        if row == MISSING:
            return "(missing)"
        if row == UNKNOWN:
            return "(unknown)"
        return tokens[row - FIRST] if tokens is not None else f"bin {row - FIRST}"

    def describe(self) -> dict[str, Any]:
        """Everything as JSON."""
        return {
            "format": FORMAT,
            "config": self.config.model_dump(mode="json", exclude_unset=True),
            "vocabularies": self.vocabularies,
            "numbers": {name: vars(numbers) for name, numbers in self.numbers.items()},
        }

    @classmethod
    def from_description(cls, told: Mapping[str, Any]) -> FeatureEncoder:
        """The encoder that ``describe`` told. Raises CheckpointError for another format or missing parts."""
        if told.get("format") not in (1, FORMAT):
            raise CheckpointError("the encoder has another format", found=told.get("format"), expected=FORMAT)
        try:
            numbers = {name: Numbers(**values) for name, values in told["numbers"].items()}
            config = ClickDataConfig.parse(told["config"])
            vocabularies = dict(told["vocabularies"])
            if told["format"] == 1:
                vocabularies = _rewritten(config, vocabularies)
            return cls(config, vocabularies, numbers)
        except (KeyError, TypeError) as broken:
            raise CheckpointError("the encoder is damaged", found=str(broken)) from broken


def hardly_known(column: Column) -> bool:
    """Whether more than nine values of ten (of 20 or more) were unknown to training."""
    values = column.values if isinstance(column, Ragged) else column
    if values.dtype.kind != "i":
        return False
    present = int(np.count_nonzero(values != MISSING))
    return present >= _FEW and int(np.count_nonzero(values == UNKNOWN)) > 0.9 * present


def _rewritten(config: ClickDataConfig, vocabularies: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Vocabularies of format 1, every value in the form of today at its own row. Where two have become one,
    the second keeps its old form, which nothing is read as any more."""
    import polars as pl

    hashed_features = [name for name, spec in config.features.items() if spec.encoding == "hash"]
    if hashed_features:
        raise CheckpointError(
            "the encoder hashed values in an older form", where=", ".join(hashed_features), fix="fit it again"
        )
    made = {}
    for table, tokens in vocabularies.items():
        new = as_text(pl.Series(tokens, dtype=pl.String), LogPlace("", table))
        again = ~new.is_first_distinct()
        made[table] = [old if twice else one for old, one, twice in zip(tokens, new, again, strict=True)]
    return made


def _column(frame: pl.DataFrame, name: str, spec: FeatureSpec) -> tuple[pl.Series, LogPlace]:
    source = spec.source(name)
    need_column(frame.columns, source, f"feature '{name}'")
    return frame[source], LogPlace.of(frame, source, "" if source == name else f"feature '{name}',")


def _texts(
    frame: pl.DataFrame, features: Mapping[str, FeatureSpec]
) -> tuple[pl.Series, NDArray[np.int64] | None]:
    """The values of the features of one table, and which row each is of (None: one feature, one a row)."""
    import polars as pl

    texts, rows = [], []
    for name, spec in features.items():
        column, place = _column(frame, name, spec)
        if spec.kind == "categorical":
            texts.append(as_text(column, place))
            rows.append(np.arange(frame.height))
        else:
            listed, counts = as_lists(column, spec, place)
            texts.append(listed)
            rows.append(np.repeat(np.arange(frame.height), counts))
    single = all(spec.kind == "categorical" for spec in features.values()) and len(features) == 1
    return pl.concat([text.alias("value") for text in texts]), None if single else np.concatenate(rows)


def _add(counts: dict[str, int], name: str, n: int) -> None:
    counts[name] = counts.get(name, 0) + n
