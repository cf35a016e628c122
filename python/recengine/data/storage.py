"""Columns on disk: a folder of .npy files and a JSON header, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recengine.errors import DataError

FORMAT = 1
HEADER = "interactions.json"
MAPPED_ABOVE = 256 * 2**20  # bytes of a folder above which columns are memory-mapped


def is_store(path: Path) -> bool:
    """Whether ``path`` is a folder that ``write_columns`` wrote."""
    return (path / HEADER).is_file()


def write_columns(path: Path, columns: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> Path:
    """Write to a folder beside ``path``, sync, rename. An earlier store at ``path`` is replaced.

    facts: what the columns alone do not say, as JSON can hold it (``rows`` among them).
    """
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
        _write(made, columns, facts)
        _swap(made, path)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return path


def read_columns(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The columns that ``write_columns`` wrote (memory-mapped when the folder is large), and the facts.

    Raises DataError when there is no store, it is of a later version, or damaged.
    """
    header = _header(path)
    names = header["columns"]
    large = sum((path / f"{name}.npy").stat().st_size for name in names if (path / f"{name}.npy").exists())
    return {name: _column(path, name, large > MAPPED_ABOVE) for name in names}, header


def damaged(where: Path, why: str) -> DataError:
    """The error for a store whose content does not fit together."""
    return DataError("the store is damaged", where=str(where), found=why, fix="write it again")


def _write(folder: Path, columns: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
    for name, column in columns.items():
        with (folder / f"{name}.npy").open("wb") as file:
            np.save(file, column, allow_pickle=False)
            _sync(file)
    header = {"format": FORMAT, **facts, "columns": sorted(columns)}
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
        raise damaged(path / HEADER, str(broken)) from None
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
        # numpy takes whatever it does not know for a pickle, and advises to load it unsafely
        raise damaged(file, "no .npy file" if "pickle" in str(broken) else str(broken)) from None
    return column
