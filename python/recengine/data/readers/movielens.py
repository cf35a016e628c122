"""Folders as GroupLens packs them: user, film, rating and time in one file of a known name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recengine.data.interactions import Interactions
from recengine.data.ordering import TieOrder
from recengine.data.readers.report import ReadReport
from recengine.data.readers.tables import Table
from recengine.errors import DataError

_BARE = {"header": False, "user": "1", "item": "2", "weight": "3", "time": "4"}
_FILES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ratings.csv", {"delimiter": ",", "header": True}),
    ("ratings.dat", {"delimiter": "::", **_BARE}),
    ("u.data", {"delimiter": "\t", **_BARE}),
)


class MovieLens:
    """A folder with ``ratings.csv`` (20M, 25M, latest), ``ratings.dat`` (1M, 10M) or ``u.data`` (100K), plain
    or as ``.gz``."""

    name = "movielens"

    def recognises(self, path: Path) -> bool:
        """See contracts.dataset.Reader."""
        return _ratings(path) is not None

    def read(
        self, path: Path, *, ties: TieOrder = "hash", seed: int = 0, report: ReadReport | None = None
    ) -> Interactions:
        """Raises DataError with file, line and column, or where the folder has no such file."""
        found = _ratings(path)
        if found is None:
            names = ", ".join(name for name, _ in _FILES)
            raise DataError("there is no file of ratings", where=str(path), expected=f"one of {names}")
        file, options = found
        return Table().read(file, ties=ties, seed=seed, report=report, **options)


def _ratings(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    for name, options in _FILES:
        for file in (folder / name, folder / f"{name}.gz"):
            if file.is_file():
                return file, options
    return None
