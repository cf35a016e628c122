"""Interactions on disk: a folder of .npy columns and a JSON header, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recengine.data.interactions import Interactions
from recengine.data.vocabulary import Vocabulary
from recengine.errors import DataError

FORMAT = 1
HEADER = "interactions.json"
MAPPED_ABOVE = 256 * 2**20  # bytes of a folder above which columns are memory-mapped
_COLUMNS = ("user", "item", "time", "weight", "source", "indptr", "part", "item_titles")


def is_store(path: Path) -> bool:
    """Whether ``path`` is a folder that ``save`` wrote."""
    return (path / HEADER).is_file()


def save(interactions: Interactions, path: Path) -> Path:
    """Write to a folder beside ``path``, sync, rename. An earlier store at ``path`` is replaced."""
    if path.exists() and not is_store(path):
        raise DataError(
            "there is something else in this place",
            where=str(path),
            expected="a new name, or a store to replace",
            fix="choose another path",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        _write(interactions, made)
        _swap(made, path)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return path


def load(path: Path) -> Interactions:
    """Read what ``save`` wrote; columns are memory-mapped read-only when the folder is large."""
    header = _header(path)
    names = header["columns"]
    large = sum((path / f"{name}.npy").stat().st_size for name in names if (path / f"{name}.npy").exists())
    columns = {name: _column(path, name, large > MAPPED_ABOVE) for name in names}
    given: dict[str, Any] = {name: columns.get(name) for name in _COLUMNS}
    if len({len(given[name]) for name in ("user", "item", "source")} | {header["rows"]}) != 1:
        raise _damaged(path, "columns differ in length")
    return Interactions(
        **given,
        users=Vocabulary(columns["users"]),
        items=Vocabulary(columns["items"]),
        ties=header["ties"],
        seed=header["seed"],
    )


def _write(interactions: Interactions, folder: Path) -> None:
    columns = {name: getattr(interactions, name) for name in _COLUMNS}
    columns |= {"users": interactions.users.tokens, "items": interactions.items.tokens}
    present = {name: column for name, column in columns.items() if column is not None}
    for name, column in present.items():
        with (folder / f"{name}.npy").open("wb") as file:
            np.save(file, column, allow_pickle=False)
            _sync(file)
    header = {
        "format": FORMAT,
        "rows": len(interactions),
        "ties": interactions.ties,
        "seed": interactions.seed,
        "columns": sorted(present),
    }
    with (folder / HEADER).open("w", encoding="utf-8") as text:
        json.dump(header, text, indent=1)
        _sync(text)


def _swap(made: Path, path: Path) -> None:
    made.chmod(0o755)
    if path.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        path.rename(old / "old")
        made.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    else:
        made.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads((path / HEADER).read_text(encoding="utf-8"))
        known = header["format"] <= FORMAT and {"rows", "ties", "seed", "columns"} <= set(header)
    except FileNotFoundError:
        raise DataError(
            "this is no interaction store",
            where=str(path),
            expected=f"a folder with {HEADER}",
            fix="write one with: recengine data convert",
        ) from None
    except (ValueError, KeyError, TypeError) as broken:
        raise _damaged(path / HEADER, str(broken)) from None
    if not known:
        raise DataError(
            "the store is of a later version",
            where=str(path),
            found=header.get("format"),
            expected=f"at most {FORMAT}",
            fix="upgrade recengine",
        )
    return dict(header)


def _column(path: Path, name: str, mapped: bool) -> NDArray[Any]:
    file = path / f"{name}.npy"
    try:
        column: NDArray[Any] = np.load(
            file, mmap_mode="r" if mapped and file.stat().st_size > 4096 else None, allow_pickle=False
        )
    except (OSError, ValueError, EOFError) as broken:
        raise _damaged(file, str(broken)) from None
    return column


def _damaged(where: Path, why: str) -> DataError:
    return DataError("the store is damaged", where=str(where), found=why, fix="write it again")
