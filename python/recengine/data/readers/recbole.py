"""RecBole atomic files: tab-separated, header fields 'name:type'."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recengine.data.columns import plain
from recengine.data.interactions import Interactions
from recengine.data.ordering import TieOrder
from recengine.data.readers.report import ReadReport
from recengine.data.readers.source import Source, bare_suffix
from recengine.data.readers.tables import read_columns
from recengine.errors import DataError

if TYPE_CHECKING:
    import polars as pl

SUFFIXES = (".inter", ".user", ".item", ".kg", ".link")
_TYPES = ("token", "token_seq", "float", "float_seq")


class RecBole:
    """NAME.inter, or a folder that holds it; titles are taken from NAME.item where it names them."""

    name = "recbole"

    def recognises(self, path: Path) -> bool:
        """See contracts.dataset.Reader."""
        return _inter(path) is not None

    def read(
        self,
        path: Path,
        *,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        weight: str | None = None,
        ids: str = "auto",
        ties: TieOrder = "hash",
        seed: int = 0,
        report: ReadReport | None = None,
    ) -> Interactions:
        """Columns are named with or without their type. Raises DataError with file, line and column."""
        told = report or ReadReport()
        file = _inter(path)
        if file is None:
            raise DataError("there is no .inter file", where=str(path), expected="NAME.inter")
        source = Source(file)
        header = _header(source)
        names = {"user": user, "item": item, "time": time, "weight": weight}
        full = {role: header.get(name, name) if name else name for role, name in names.items()}
        columns = read_columns(source, full, told, delimiter="\t", header=True, ids=ids)
        made = columns.interactions(ties, seed)
        side = file.with_name(file.name.replace(".inter", ".item"))
        return _titled(made, side, told) if side.is_file() else made


def read_atomic(path: Path) -> pl.DataFrame:
    """Any atomic file as a table: token as text, float as Float32, the sequences as lists; names without
    their types. Raises DataError for a field without a known type and a value that is no number."""
    import polars as pl

    source = Source(path)
    header = _header(source)
    try:
        table = pl.read_csv(
            source.for_polars(),
            has_header=False,
            skip_rows=1,
            new_columns=list(header),
            separator="\t",
            quote_char=None,
            infer_schema=False,
        )
    except pl.exceptions.PolarsError as broken:
        raise source.complaint(broken) from None
    return table.select(_typed(source, table[name], full) for name, full in header.items())


def _typed(source: Source, column: pl.Series, full: str) -> pl.Series:
    import polars as pl

    kind = full.split(":")[1]
    if kind == "token":
        return column
    if kind == "token_seq":
        return column.str.split(" ")
    target: pl.DataType | type[pl.DataType] = pl.Float32 if kind == "float" else pl.List(pl.Float32)
    parts = column if kind == "float" else column.str.split(" ")
    numbers = parts.cast(target, strict=False)
    bad = numbers.is_null() & column.is_not_null()
    if kind == "float_seq":
        bad = bad | numbers.list.eval(pl.element().is_null()).list.any().fill_null(False)
    if bool(bad.any()):
        row = int(bad.arg_max() or 0)
        raise DataError(
            "a value is not a number",
            where=f"{source.name}, line {row + 2}, column '{full}'",
            found=repr(column[row]),
            expected=kind,
        )
    return numbers


def _header(source: Source) -> dict[str, str]:
    """Bare name to 'name:type'."""
    fields = source.head(1)[0].split("\t")
    for field in fields:
        if field.count(":") != 1 or field.split(":")[1] not in _TYPES:
            raise DataError(
                "a field of the header has no known type",
                where=f"{source.name}, line 1, column '{field}'",
                found=field,
                expected="name:type with type " + ", ".join(_TYPES),
                fix="name the types, or read it as a table (layout='table')",
            )
    return {field.split(":")[0]: field for field in fields}


def _inter(path: Path) -> Path | None:
    if path.is_file():
        return path if bare_suffix(path) == ".inter" else None
    if not path.is_dir():
        return None
    return next((file for file in sorted(path.iterdir()) if bare_suffix(file) == ".inter"), None)


def _titled(made: Interactions, file: Path, report: ReadReport) -> Interactions:
    import polars as pl

    table = read_atomic(file)
    by_role = {plain(name): name for name in table.columns}
    key = next((by_role[name] for name in ("itemid", "item", "iid") if name in by_role), None)
    title = next((name for name in table.columns if "title" in plain(name) or plain(name) == "name"), None)
    if key is None or title is None:
        return made
    text = table[title] if table[title].dtype == pl.String else table[title].list.join(" ")
    names = dict(zip(table[key].to_list(), text.to_list(), strict=True))
    report.say(f"item titles from column '{title}' of {file.name}")
    return made.with_titles(np.array([names.get(str(token)) or str(token) for token in made.items.tokens]))
