"""The engine's own store (``Interactions.save``)."""

from __future__ import annotations

from pathlib import Path

from recengine.data.interactions import Interactions
from recengine.data.readers.report import ReadReport
from recengine.data.storage import is_store


class Store:
    """A folder of .npy columns, memory-mapped when large."""

    name = "store"

    def recognises(self, path: Path) -> bool:
        """See contracts.dataset.Reader."""
        return is_store(path)

    def read(self, path: Path, *, report: ReadReport | None = None) -> Interactions:
        """Raises DataError when it is damaged."""
        made = Interactions.load(path)
        if report is not None:
            report.rows = len(made)
        return made
