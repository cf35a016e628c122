"""CSV, TSV, Parquet and JSON lines: columns by name, by guess or by number; every value checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recengine.data.columns import ROLES, Role, choose_columns
from recengine.data.frames import Indexed, Place, finite_weights, index_ids, whole_times
from recengine.data.interactions import Interactions
from recengine.data.ordering import TieOrder
from recengine.data.readers.report import ReadReport
from recengine.data.readers.shape import Shape, by_position, check_fields, fields, sniff
from recengine.data.readers.source import Source, bare_suffix
from recengine.data.readers.text import text_ids, text_times, text_weights
from recengine.errors import DataError

if TYPE_CHECKING:
    import polars as pl

TEXT = {".csv", ".tsv", ".txt", ".dat", ".data", ".inter", ".tab"}
PARQUET = {".parquet", ".pq"}
JSON_LINES = {".jsonl", ".ndjson"}


@dataclass(frozen=True)
class Columns:
    """The checked columns of a file, before they are sorted. part: int8 [n] or None."""

    user: Indexed
    item: Indexed
    time: NDArray[np.int64] | None
    weight: NDArray[np.float32] | None
    part: NDArray[np.int8] | None = None

    def interactions(self, ties: TieOrder, seed: int) -> Interactions:
        """Sorted and stored."""
        (users, user), (items, item) = self.user, self.item
        return Interactions.from_rows(
            user, item, self.time, self.weight, users, items, ties=ties, seed=seed, part=self.part
        )


class Table:
    """One file of rows: CSV, TSV or another delimiter, JSON lines (these also gzip), or Parquet."""

    name = "table"

    def recognises(self, path: Path) -> bool:
        """See contracts.dataset.Reader."""
        return path.is_file() and bare_suffix(path) in TEXT | PARQUET | JSON_LINES

    def read(
        self,
        path: Path,
        *,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        weight: str | None = None,
        part: str | None = None,
        delimiter: str | None = None,
        header: bool | None = None,
        ids: str = "auto",
        time_format: str | None = None,
        ties: TieOrder = "hash",
        seed: int = 0,
        report: ReadReport | None = None,
    ) -> Interactions:
        """Columns by name (by number from 1 where there is no header line), guessed where not named; an empty
        name ('') leaves time or weight out. ids: 'auto' or 'text'. time_format: strftime's signs for text
        that is not ISO 8601. Raises DataError with file, line and column."""
        names = {"user": user, "item": item, "time": time, "weight": weight}
        told = report or ReadReport()
        if bare_suffix(path) in PARQUET:
            columns = _parquet(path, names, told, time_format)
        elif bare_suffix(path) in JSON_LINES:
            columns = _json_lines(path, names, told, time_format)
        else:
            columns = read_columns(
                Source(path),
                names,
                told,
                part=part,
                delimiter=delimiter,
                header=header,
                ids=ids,
                time_format=time_format,
            )
        if columns.time is None and time_format is not None:
            raise DataError(
                "a form of times is given, but no column is read as times",
                where=str(path),
                found=f"time_format={time_format!r}",
                fix="name the column: time='...'",
            )
        if columns.time is None and ties == "hash":
            told.say("no order in time is known (if the rows are in time order, say so: ties='rows')")
        return columns.interactions(ties, seed)


def read_columns(
    source: Source,
    given: Mapping[str, str | None],
    report: ReadReport,
    *,
    part: str | None = None,
    delimiter: str | None = None,
    header: bool | None = None,
    ids: str = "auto",
    time_format: str | None = None,
) -> Columns:
    """Parse the columns that matter, one at a time, so that memory holds the text of one column only."""
    shape = sniff(source, delimiter, header, report)
    chosen = _choose(source, shape, given, report)
    check_fields(source, shape)
    n_rows = [0]

    def column(name: str) -> tuple[pl.Series, Place]:
        series = _parse(source, shape, name)
        n_rows[0] = n_rows[0] or _filled_rows(source, shape, series)
        return series.head(n_rows[0]), Place(source.name, name, 2 if shape.has_header else 1)

    user = text_ids(*column(chosen["user"]), ids)
    item = text_ids(*column(chosen["item"]), ids)
    time = text_times(*column(chosen["time"]), report, time_format) if "time" in chosen else None
    weight = text_weights(*column(chosen["weight"])) if "weight" in chosen else None
    report.rows = n_rows[0]
    report.columns = {str(role): name for role, name in chosen.items()} | ({"part": part} if part else {})
    parts = None if part is None else text_weights(*column(part)).astype(np.int8)
    return Columns(user, item, time, weight, parts)


def _choose(
    source: Source, shape: Shape, given: Mapping[str, str | None], report: ReadReport
) -> dict[Role, str]:
    named = {role: name for role, name in given.items() if name}
    left_out = {role for role, name in given.items() if name == ""}
    if not shape.has_header:
        sample = [fields(line, shape.separator * shape.stride) for line in source.head()]
        positions = {role: name for role, name in by_position(sample).items() if role not in left_out}
        guessed = {role: name for role, name in positions.items() if role not in named}
        taken = set(named.values())
        named |= {role: name for role, name in guessed.items() if name not in taken}
        report.say("columns by position: " + ", ".join(f"{role} = {name}" for role, name in named.items()))
    chosen, said = choose_columns(shape.names, named, source.name)
    for sentence in said if shape.has_header else []:
        report.say(sentence)
    return {role: name for role, name in chosen.items() if role not in left_out}


def _parse(source: Source, shape: Shape, name: str) -> pl.Series:
    import polars as pl

    try:
        table = pl.read_csv(
            source.for_polars(),
            has_header=False,
            skip_rows=int(shape.has_header),
            separator=shape.separator,
            columns=[shape.position(name)],
            infer_schema=False,
        )
    except pl.exceptions.PolarsError as broken:
        raise source.complaint(broken) from None
    column = table.to_series(0)
    return column.str.strip_chars(" ") if shape.padded else column


def _filled_rows(source: Source, shape: Shape, series: pl.Series) -> int:
    """Rows without blank lines at the end. Raises DataError when there are none."""
    filled = series.is_not_null().arg_true()
    last = filled[-1] if len(filled) else None
    if last is None:
        raise DataError(
            "there are no rows",
            where=f"{source.name}, line {2 if shape.has_header else 1}",
            expected="at least one interaction",
        )
    trailing = len(series) - int(last) - 1
    if trailing and not _ends_blank(source, trailing):
        return len(series)
    return int(last) + 1


def _ends_blank(source: Source, lines: int) -> bool:
    """Whether the last lines of the file are blank (a missing id in the last row is no blank line)."""
    tail = [b""] * lines
    for line in source.lines():
        tail = [*tail[1:], line]
    return all(not line.strip() for line in tail)


def _parquet(
    path: Path, given: Mapping[str, str | None], report: ReadReport, time_format: str | None
) -> Columns:
    import polars as pl

    try:
        chosen = _chosen(list(pl.read_parquet_schema(path)), given, str(path), report)
        table = pl.read_parquet(path, columns=list(chosen.values()))
    except (pl.exceptions.PolarsError, OSError) as broken:
        raise DataError(
            "the file cannot be read as Parquet",
            where=str(path),
            found=str(broken).split("\n")[0],
            expected="a whole Parquet file",
            fix="write or fetch it again",
        ) from None
    return _typed(table, chosen, path, report, time_format)


def _json_lines(
    path: Path, given: Mapping[str, str | None], report: ReadReport, time_format: str | None
) -> Columns:
    import polars as pl

    source = Source(path)
    try:
        table = pl.read_ndjson(source.for_polars(), infer_schema_length=None)
    except pl.exceptions.PolarsError as broken:
        raise DataError(
            "the file cannot be read as JSON lines",
            where=str(path),
            found=str(broken).split("\n")[0],
            expected='an object a line, such as {"user": 7, "item": "tea", "time": 1260759144}',
            fix="convert it to CSV or Parquet",
        ) from None
    chosen = _chosen(table.columns, given, str(path), report)
    return _typed(table, chosen, path, report, time_format, first_line=1)


def _chosen(
    names: Sequence[str], given: Mapping[str, str | None], source: str, report: ReadReport
) -> dict[Role, str]:
    wanted = {role: name for role, name in given.items() if name}
    left_out = {role for role, name in given.items() if name == ""}
    chosen, said = choose_columns(names, wanted, source)
    report.said += said
    return {role: chosen[role] for role in ROLES if role in chosen and role not in left_out}


def _typed(
    table: pl.DataFrame,
    chosen: Mapping[Role, str],
    path: Path,
    report: ReadReport,
    time_format: str | None = None,
    first_line: int | None = None,
) -> Columns:
    report.columns, report.rows = {str(role): name for role, name in chosen.items()}, len(table)

    def column(role: Role) -> tuple[pl.Series, Place]:
        return table[chosen[role]], Place(str(path), chosen[role], first_line)

    return Columns(
        index_ids(*column("user")),
        index_ids(*column("item")),
        whole_times(*column("time"), time_format) if "time" in chosen else None,
        finite_weights(*column("weight")) if "weight" in chosen else None,
    )
