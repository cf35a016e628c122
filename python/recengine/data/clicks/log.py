"""A click log before it is encoded: files that are read in batches, or a table in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recengine.data.clicks.place import PART, ROW
from recengine.data.clicks.schema import ClickDataConfig, FeatureSpec
from recengine.errors import DataError

if TYPE_CHECKING:
    import polars as pl

ROWS = 65_536
_NAMES = {0: ("train",), 1: ("validation", "valid", "val"), 2: ("test",)}
_ENDINGS = {".parquet": "", ".pq": "", ".csv": ",", ".tsv": "\t", ".tab": "\t"}


@dataclass(frozen=True)
class ClickLog:
    """frames: tables in memory. files: Parquet, CSV or TSV (also .gz). parts: 0, 1 or 2 a file or frame where
    the log came divided into training, validation and test. config: what is known of the columns."""

    frames: tuple[pl.DataFrame, ...] = ()
    files: tuple[Path, ...] = ()
    parts: tuple[int, ...] | None = None
    config: ClickDataConfig = field(default_factory=ClickDataConfig)
    name: str = "table"

    @classmethod
    def from_frame(
        cls, frame: Any, config: ClickDataConfig | None = None, *, name: str = "table"
    ) -> ClickLog:
        """From a pandas, polars or Arrow table. Raises DataError for anything else or an empty table."""
        import narwhals.stable.v1 as nw

        try:
            table = nw.from_native(frame, eager_only=True)
        except TypeError:
            raise DataError(
                "this is no table", found=type(frame).__name__, expected="a pandas, polars or Arrow table"
            ) from None
        if len(table) == 0:
            raise DataError("the table has no rows", where=name, expected="at least one")
        return cls((table.to_polars(),), config=config or ClickDataConfig(), name=name)

    @classmethod
    def open(cls, path: str | Path, config: ClickDataConfig | None = None) -> ClickLog:
        """A file, or a folder with train, (validation,) and test files. Nothing is read yet but the header.

        Raises DataError when there is no such thing, or a folder without parts.
        """
        place = Path(path).expanduser()
        given = config or ClickDataConfig()
        if place.is_dir():
            found = {part: _one_of(place, names) for part, names in _NAMES.items()}
            if found[0] is None or found[2] is None:
                raise DataError(
                    "the folder is no click log",
                    where=str(place),
                    expected="train and test files (.parquet, .csv)",
                )
            files = [(part, file) for part, file in found.items() if file is not None]
            return cls(
                files=tuple(file for _, file in files),
                parts=tuple(part for part, _ in files),
                config=given,
                name=place.name,
            )
        if not place.is_file():
            raise DataError("there is no such file or folder", where=str(place), fix="check the path")
        return cls(files=(place,), config=given, name=place.name)

    def with_config(self, config: ClickDataConfig) -> ClickLog:
        """The same log, its columns described by ``config`` over what is known of them; features are guessed
        where none are named. Raises DataError naming a column that is not there, a feature that is the label,
        the part, the weight or the propensity, a slice with other than one value of a table a row, or a
        propensity without the feature that was chosen with it."""
        settled = config.over(self.config)
        present = self.schema()
        if not settled.features:
            settled = ClickDataConfig.parse(
                {**settled.model_dump(exclude_unset=True), "features": guessed(present, settled)}
            )
        wanted = {name: f"data.{name}" for name in ("label", "group", "time", "weight", "propensity", "part")}
        for name, where in wanted.items():
            column = getattr(settled, name)
            if column:
                need_column(present, column, where)
        for name, spec in settled.features.items():
            need_column(present, spec.source(name), f"data.features.{name}")
            _need_no_office(name, spec.source(name), settled)
        for name in settled.slices:
            need_column(settled.features, name, "data.slices")
            _need_one_value(name, settled.features[name])
        _need_choices(settled)
        return replace(self, config=settled)

    def schema(self) -> dict[str, Any]:
        """Columns and their polars types."""
        if self.frames:
            return dict(self.frames[0].schema)
        try:
            return dict(self._scan(self.files[0]).collect_schema())
        except Exception as broken:
            raise _unreadable(self.files[0], broken) from broken

    def batches(self, columns: Sequence[str] | None = None, rows: int = ROWS) -> Iterator[pl.DataFrame]:
        """The rows in order, at most ``rows`` at a time; only ``columns`` are read from Parquet. A log in
        parts has the column PART beside them. Raises DataError where there is no row."""
        empty = True
        for batch in self._read(columns, rows):
            if batch.height:
                empty = False
                yield batch
        if empty:
            raise DataError("the table has no rows", where=self.name, expected="at least one")

    def numbered(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """``batches`` with the column ROW: the number of each row in the log, in each part from 0. Errors
        name the row by it (``LogPlace``)."""
        import polars as pl

        low, part = 0, None
        for batch in self.batches(columns):
            current = batch[PART][0] if PART in batch.columns else None
            low, part = (low, part) if current == part else (0, current)
            yield batch.with_columns(pl.int_range(low, low + batch.height, dtype=pl.Int64).alias(ROW))
            low += batch.height

    def _read(self, columns: Sequence[str] | None, rows: int) -> Iterator[pl.DataFrame]:
        import polars as pl

        for at in range(len(self.frames) + len(self.files)):
            extra = [] if self.parts is None else [pl.lit(self.parts[at], pl.Int8).alias(PART)]
            source = self.frames[at].lazy() if self.frames else self._scan(self.files[at])
            lazy = source if columns is None else source.select(list(dict.fromkeys(columns)))
            if self.frames:
                frame = lazy.collect()
                for low in range(0, frame.height, rows):
                    yield frame[low : low + rows].with_columns(extra)
                continue
            try:
                for batch in _in_batches(lazy, rows):
                    yield batch.with_columns(extra)
            except pl.exceptions.PolarsError as broken:
                raise _unreadable(self.files[at], broken) from broken

    def _scan(self, path: Path) -> pl.LazyFrame:
        import polars as pl

        suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
        ending = suffixes[-1] if suffixes else ""
        if ending not in _ENDINGS:
            raise DataError(
                "a click log is Parquet, CSV or TSV",
                where=str(path),
                found=ending or "no ending",
                expected=", ".join(_ENDINGS),
            )
        if ending in (".parquet", ".pq"):
            return pl.scan_parquet(path)
        as_text = {
            spec.source(name): pl.String
            for name, spec in self.config.features.items()
            if spec.kind != "numeric"
        }
        header = pl.scan_csv(path, separator=_ENDINGS[ending], infer_schema_length=1).collect_schema().names()
        return pl.scan_csv(
            path,
            separator=_ENDINGS[ending],
            schema_overrides={name: kind for name, kind in as_text.items() if name in header},
            infer_schema_length=10_000,
        )


def need_column(present: Any, column: str, where: str) -> None:
    """Raises DataError with a did-you-mean when ``column`` is not among ``present``."""
    from recengine.config import did_you_mean

    if column in present:
        return
    near = did_you_mean(column, list(present))
    raise DataError(
        f"there is no column '{column}'",
        where=where,
        found=", ".join(list(present)[:12]) + (" …" if len(present) > 12 else ""),
        expected=column,
        fix=f"did you mean '{near}'?" if near else _how_to_name(where),
    )


def _need_one_value(name: str, spec: FeatureSpec) -> None:
    if spec.kind != "categorical" and spec.transform != "buckets":
        raise DataError(
            "a slice needs a feature with one value of a table a row",
            where="data.slices",
            found=_in_words(name, spec),
            expected="a categorical feature, or a number in bins",
            fix=f"leave it out, or set data.features.{name}.transform = 'buckets'"
            if spec.kind == "numeric"
            else "leave it out",
        )


def _need_no_office(name: str, column: str, config: ClickDataConfig) -> None:
    """The label as a feature answers the question; part, weight and propensity say how a row came to be in
    the log. None is known of a row that is to be scored."""
    for office in ("label", "part", "weight", "propensity"):
        if getattr(config, office) == column:
            raise DataError(
                f"the {office} is no feature",
                where=f"data.features.{name}",
                found=f"column '{column}', which is data.{office}",
                expected="a column that is known before the answer",
                fix=f"leave the feature out, or name another column as data.{office}",
            )


def _need_choices(config: ClickDataConfig) -> None:
    """What a propensity is the chance of must be countable: showing all choices equally often is the other
    policy that IPS and SNIPS ask about."""
    if not config.propensity:
        return
    if config.action:
        need_column(config.features, config.action, "data.action")
    spec = config.features.get(config.action)
    if spec is None or spec.kind != "categorical" or spec.encoding == "hash" or spec.share:
        raise DataError(
            "a propensity is the chance of one choice among those that training lists",
            where="data.action",
            found="nothing" if spec is None else _in_words(config.action, spec),
            expected="a categorical feature with a vocabulary of its own",
            fix="name the feature that was chosen, or leave the column out: data.ignore instead of "
            "data.propensity",
        )


def _in_words(name: str, spec: FeatureSpec) -> str:
    shared = f", shares the table of '{spec.share}'" if spec.share else ""
    return f"'{name}', {spec.kind}{', hashed' if spec.encoding == 'hash' else ''}{shared}"


def _how_to_name(where: str) -> str:
    """For 'data.label' the words that set it; a column of a feature has to be there."""
    return (
        f"name the right column: --set {where}=COLUMN" if where.startswith("data.") else "give it the column"
    )


def guessed(schema: dict[str, Any], config: ClickDataConfig) -> dict[str, FeatureSpec]:
    """A spec for every column without another office: lists are multi-valued, floats and decimals with
    places numbers, the rest categories."""
    import polars as pl

    offices = {config.label, config.time, config.weight, config.propensity, config.part, *config.ignore, PART}
    found = {}
    for column, kind in schema.items():
        if column in offices:
            continue
        if isinstance(kind, pl.List | pl.Array):
            found[column] = FeatureSpec(kind="multi")
        elif kind.is_float() or (kind.is_decimal() and kind.scale > 0):
            found[column] = FeatureSpec(kind="numeric")
        else:
            found[column] = FeatureSpec()
    if not found:
        raise DataError(
            "the log has no feature", found=", ".join(schema), expected="a column beside the label"
        )
    return found


def _in_batches(lazy: pl.LazyFrame, rows: int) -> Iterator[pl.DataFrame]:
    if hasattr(lazy, "collect_batches"):
        yield from lazy.collect_batches(chunk_size=rows, maintain_order=True)
        return
    low = 0
    while True:
        batch = lazy.slice(low, rows).collect()
        if batch.height:
            yield batch
        if batch.height < rows:
            return
        low += rows


def _one_of(folder: Path, names: tuple[str, ...]) -> Path | None:
    found = sorted(
        file
        for file in folder.iterdir()
        if file.name.split(".")[0] in names and set(file.suffixes) & set(_ENDINGS)
    )
    return found[0] if found else None


def _unreadable(path: Path, broken: Exception) -> DataError:
    if isinstance(broken, DataError):
        return broken
    return DataError(
        "the file cannot be read",
        where=str(path),
        found=str(broken).splitlines()[0][:200],
        expected="a table with a header line, one type a column",
        fix="name the kinds of the columns under [data.features]",
    )
