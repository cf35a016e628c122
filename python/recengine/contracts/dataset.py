"""Data sets by name, and readers of file layouts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from recengine.data.interactions import Interactions


class DatasetSource(Protocol):
    """A data set that a user can name. ``licence`` is shown before anything is fetched."""

    name: str
    summary: str
    licence: str

    def load(self, cache: Path) -> Interactions:
        """Read it (from the cache, a package, or made on the spot). Raises DataError when it is not there."""
        ...


class Reader(Protocol):
    """A file layout."""

    name: str

    def recognises(self, path: Path) -> bool:
        """Whether the path looks like this layout; cheap, never raises."""
        ...

    def read(self, path: Path, **options: object) -> Interactions:
        """Raises DataError with file, line and column."""
        ...
