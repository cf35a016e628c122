"""One user a line (S3-Rec) and one event a line in time order (SASRec)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recengine.data.frames import Indexed, Place
from recengine.data.interactions import Interactions
from recengine.data.readers.report import ReadReport
from recengine.data.readers.source import Source, bare_suffix, peek
from recengine.data.readers.tables import Columns, Table
from recengine.data.readers.text import text_ids
from recengine.errors import DataError

if TYPE_CHECKING:
    import polars as pl


class Sequences:
    """'user item item ...' a line, oldest first: the order is that of the line."""

    name = "sequences"

    def recognises(self, path: Path) -> bool:
        """Lines of whole numbers apart by spaces, as different in number as sequences are."""
        return path.is_file() and bare_suffix(path) in {".txt", ".seq", ""} and ragged(path)

    def read(self, path: Path, *, ids: str = "auto", report: ReadReport | None = None) -> Interactions:
        """Raises DataError for a line without an item and for ids that are not ids."""
        told = report or ReadReport()
        told.say("each line is a user and its items, oldest first: its order is the order in time")
        columns = ragged_columns(Source(path), ids)
        told.rows = int(columns.user[1].shape[0])
        return columns.interactions("rows", 0)


class Pairs:
    """'user item' a line in time order, no header and no times (SASRec, BERT4Rec). Never guessed: a table of
    pairs says nothing about its order, so this layout must be named."""

    name = "pairs"

    def recognises(self, path: Path) -> bool:
        """Never: the order must be vouched for."""
        return False

    def read(self, path: Path, *, ids: str = "auto", report: ReadReport | None = None) -> Interactions:
        """Raises DataError with file, line and column."""
        return Table().read(
            path, user="1", item="2", time="", weight="", header=False, ids=ids, ties="rows", report=report
        )


def ragged(path: Path) -> bool:
    """Whether the first lines hold whole numbers, more than three and not equally many."""
    lines = [line.split() for line in peek(path)]
    numeric = bool(lines) and all(field.isdigit() for line in lines for field in line)
    return numeric and len({len(line) for line in lines}) > 1


def ragged_columns(source: Source, ids: str = "auto", *, empty_lines: bool = False) -> Columns:
    """'user item item ...' lines as columns, one row an item, in the order of the file. A user without items
    is an error unless ``empty_lines``."""
    import polars as pl

    source.head()
    fields = source.line_column().str.strip_chars().str.split(" ")
    table = pl.DataFrame({"fields": fields, "line": pl.int_range(1, len(fields) + 1, eager=True)})
    table = table.filter(pl.col("fields").list.len() > 0, pl.col("fields").list.first() != "")
    if not empty_lines:
        _need_items(source, table)
    user = text_ids(table["fields"].list.first(), Place(source.name, "user", 1), ids)
    counts = (table["fields"].list.len() - 1).to_numpy().astype(np.int64)
    items = table["fields"].list.slice(1).filter(table["fields"].list.len() > 1).explode()
    if not len(items):
        raise DataError("there are no items", where=source.name, expected="lines of: user item item ...")
    rows: Indexed = (user[0], np.repeat(user[1], counts))
    try:
        item = text_ids(items, Place(source.name, "item"), ids)
    except DataError as wrong:
        raise _on_its_line(wrong, source, table, items) from None
    return Columns(rows, item, None, None)


def _need_items(source: Source, table: pl.DataFrame) -> None:
    short = (table["fields"].list.len() < 2).arg_true()
    if len(short):
        raise DataError(
            "a line has a user and no item",
            where=f"{source.name}, line {table['line'][int(short[0])]}",
            found=" ".join(table["fields"][int(short[0])]),
            expected="user item item ...",
            fix="remove the line",
        )


def _on_its_line(wrong: DataError, source: Source, table: pl.DataFrame, items: pl.Series) -> DataError:
    """The same complaint with the line instead of the position among all items."""
    spot = (wrong.where or "").rsplit("row ", 1)[-1].split(",")[0]
    if not spot.isdigit():
        return wrong
    ends = (table["fields"].list.len() - 1).cum_sum().to_numpy()
    line = table["line"][int(np.searchsorted(ends, int(spot), side="right"))]
    return DataError(
        wrong.problem,
        where=f"{source.name}, line {line}, column 'item'",
        found=wrong.found if wrong.found is not None else repr(items[int(spot)]),
        expected=wrong.expected,
        fix=wrong.fix,
    )
