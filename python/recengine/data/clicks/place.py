"""Where a value of a click log lies, for error messages: rows keep their number when batches are filtered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recengine.data.frames import Place

if TYPE_CHECKING:
    import polars as pl

PART = "recengine.part"  # the column that names the file's part, where a log came in several
ROW = "recengine.row"  # the column with each row's number in the log, or in the file of its part
_PARTS = ("training", "validation", "test")


@dataclass(frozen=True)
class LogPlace(Place):
    """A column of some rows of a log. source: what the column is to the log, in words. rows: int64, the
    number of each in the log; None: 0, 1, and so on. part: of a log in several files."""

    rows: NDArray[np.int64] | None = None
    part: str = ""

    @classmethod
    def of(cls, frame: pl.DataFrame, column: str, source: str = "") -> LogPlace:
        """The place of ``column`` in a batch; ``ClickLog.numbered`` gives batches with the numbers."""
        rows = frame[ROW].to_numpy() if ROW in frame.columns else None
        part = _PARTS[frame[PART][0]] if PART in frame.columns and frame.height else ""
        return cls(source, column, rows=rows, part=part)

    def __str__(self) -> str:
        return f"{self.source}{' ' if self.source else ''}column '{self.column}'"

    def at(self, row: int) -> str:
        """The place of row ``row`` of the batch."""
        number = row if self.rows is None else int(self.rows[row])
        return f"{self}, row {number}{f' of the {self.part} part' if self.part else ''}"
