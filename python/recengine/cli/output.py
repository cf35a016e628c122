"""What commands print: tables for people, JSON for machines. Results go to stdout, the rest to stderr."""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@cache
def stderr() -> Console:
    """The console of notes and progress."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def note(text: str) -> None:
    """A line for people, beside the result."""
    typer.echo(text, err=True)


def emit_json(value: Any) -> None:
    """One JSON document on stdout; NaN and infinities become null, as JSON has neither."""
    typer.echo(json.dumps(plain(value), ensure_ascii=False, indent=2, allow_nan=False))


def plain(value: Any) -> Any:
    """Made of dicts, lists, numbers, strings, booleans and None only."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(name): plain(below) for name, below in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(below) for below in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value) if isinstance(value, PurePath) or not callable(value) else repr(value)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> None:
    """A plain table on stdout, as wide as it needs to be when nobody looks (a pipe). In a terminal prose is
    folded; where numbers and names would not fit, each row becomes lines of "column: cell"."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if title:
        console.print(Text(title, style="italic"), soft_wrap=True)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(80, _width(columns, rows)))
    elif _narrowest(columns, rows) > console.width:
        typer.echo(records(columns, rows, console.width))
        return
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    numeric = [
        bool(rows) and all(isinstance(row[at], int | float) for row in rows) for at in range(len(columns))
    ]
    for at, (name, number) in enumerate(zip(columns, numeric, strict=True)):
        whole = not _is_prose(rows, at)
        made.add_column(name, justify="right" if number else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        made.add_row(*(Text(shown(cell)) for cell in row))
    console.print(made)


def records(columns: Sequence[str], rows: Sequence[Sequence[Any]], width: int) -> str:
    """Each row as its first cell and, below, "column: cell" of the cells that are not empty."""
    lines = []
    for row in rows:
        pairs = zip(columns[1:], row[1:], strict=True)
        rest = "; ".join(f"{name}: {shown(cell)}" for name, cell in pairs if shown(cell))
        lines += [shown(row[0]), *textwrap.wrap(rest, width, initial_indent="  ", subsequent_indent="  ")]
    return "\n".join(lines)


_PROSE = 24  # a longer cell with spaces may be folded


def _is_prose(rows: Sequence[Sequence[Any]], at: int) -> bool:
    return any(len(shown(row[at])) > _PROSE and " " in shown(row[at]) for row in rows)


def _narrowest(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> int:
    """Characters that the table needs when prose is folded, and nothing else."""
    needed = [
        _PROSE if _is_prose(rows, at) else max(len(name), *(len(shown(row[at])) for row in rows), 0)
        for at, name in enumerate(columns)
    ]
    return sum(needed) + 3 * len(needed)


def _width(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> int:
    widest = [max(len(name), *(len(shown(row[at])) for row in rows), 0) for at, name in enumerate(columns)]
    return sum(widest) + 3 * len(widest) + 4


def shown(value: Any) -> str:
    """A cell as text: four decimals for fractions, nothing for None and NaN."""
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}" if math.isfinite(value) and 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"
    return str(value)
