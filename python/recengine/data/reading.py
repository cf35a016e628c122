"""The front door for files: find the reader, read, filter, and say what was done."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from recengine.config import did_you_mean
from recengine.data.columns import ROLES
from recengine.data.filtering import at_least
from recengine.data.interactions import Interactions
from recengine.data.readers import (
    MMREC,
    ImplicitCSR,
    IRBench,
    LightGCN,
    MovieLens,
    Pairs,
    RecBole,
    Sequences,
    Store,
    Table,
)
from recengine.data.readers.report import ReadReport
from recengine.errors import DataError, UsageError

__all__ = ["ReadReport", "built_in", "read", "read_table"]


_DELIMITERS = {"\\t": "\t", "tab": "\t", "space": " "}


class LayoutReader(Protocol):
    """What ``read`` asks of a reader; contracts.dataset.Reader is the same for plugins."""

    name: str

    def recognises(self, path: Path) -> bool: ...

    @property
    def read(self) -> Any: ...


def built_in() -> list[LayoutReader]:
    """The readers of the engine, the most particular first."""
    return [
        Store(),
        MMREC(),
        RecBole(),
        LightGCN(),
        IRBench(),
        MovieLens(),
        ImplicitCSR(),
        Sequences(),
        Pairs(),
        Table(),
    ]


def read(
    path: str | Path,
    *,
    layout: str | None = None,
    readers: Sequence[LayoutReader] | None = None,
    min_weight: float | None = None,
    report: ReadReport | None = None,
    **options: Any,
) -> Interactions:
    """Interactions from a file or folder.

    layout: name of a reader; without it the first that recognises the path is taken. readers: which to ask,
    in this order (default: the built-in ones). min_weight: keep events of at least this weight. report:
    filled with what was guessed. Other options go to the reader (user, item, time, weight, delimiter,
    header, ids, ties, ... of the reader 'table').
    Raises DataError with file, line, column, what was found, expected and the fix, and UsageError for a
    layout or an option that does not exist.
    """
    where = Path(path)
    told = report if report is not None else ReadReport()
    chosen = _choose(where, layout, built_in() if readers is None else list(readers))
    told.path, told.layout = str(where), chosen.name
    accepted = inspect.signature(chosen.read).parameters
    _check_options(chosen, accepted, options)
    passed = {"report": told} if "report" in accepted else {}
    options = {name: _as_typed(name, value) for name, value in options.items()}
    made: Interactions = chosen.read(where, **passed, **options)
    if min_weight is not None:
        made = at_least(made, min_weight)
    if len(made) == 0:
        raise DataError("there are no interactions", where=str(where), expected="at least one")
    told.rows, told.kept = told.rows or len(made), len(made)
    return made


def read_table(frame: Any, **options: Any) -> Interactions:
    """Interactions from a pandas, polars or Arrow table: ``Interactions.from_frame``."""
    return Interactions.from_frame(frame, **options)


def _as_typed(name: str, value: Any) -> Any:
    """Options as a command line gives them: column numbers, a delimiter spelt out."""
    if name in ROLES and isinstance(value, int):
        return str(value)
    return _DELIMITERS.get(value, value) if name == "delimiter" else value


def _choose(path: Path, layout: str | None, readers: Sequence[LayoutReader]) -> LayoutReader:
    if layout is not None:
        named = next((reader for reader in readers if reader.name == layout), None)
        if named is not None:
            return named
        known = [reader.name for reader in readers]
        near = did_you_mean(layout, known)
        raise UsageError(
            f"there is no layout '{layout}'",
            expected="one of " + ", ".join(known),
            fix=f"did you mean '{near}'?" if near else None,
        )
    if not path.exists():
        raise DataError("there is no such file or folder", where=str(path), fix="check the path")
    recognised = _recognised(path, readers)
    if recognised is not None:
        return recognised
    if path.is_file():
        return next((reader for reader in readers if reader.name == "table"), Table())
    raise DataError(
        "the folder is in no known layout",
        where=str(path),
        found=", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "an empty folder",
        expected="NAME.inter, train and test files, ratings as GroupLens packs them, or a store",
        fix="name a file inside it, or the layout (layout=...)",
    )


def _recognised(path: Path, readers: Sequence[LayoutReader]) -> LayoutReader | None:
    try:
        return next((reader for reader in readers if reader.recognises(path)), None)
    except PermissionError:
        raise DataError(
            "the folder may not be read", where=str(path), fix="change its permissions (chmod u+rx)"
        ) from None


def _check_options(reader: LayoutReader, accepted: Any, options: dict[str, Any]) -> None:
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted.values()):
        return
    for name in options:
        if name not in accepted:
            known = [option for option in accepted if option not in ("path", "report")]
            near = did_you_mean(name, known)
            raise UsageError(
                f"the layout '{reader.name}' has no option '{name}'",
                expected="one of " + ", ".join([*known, "min_weight", "layout"]),
                fix=f"did you mean '{near}'?" if near else None,
            )
