"""Parquet of tables too long for memory: batches go to parts beside the file, the parts to the file."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from recengine.errors import DataError
from recengine.files import naming, write_with

if TYPE_CHECKING:
    import polars as pl


def write_batches(path: Path, batches: Iterable[pl.DataFrame]) -> int:
    """Write the batches' rows, in order, as one Parquet file, whole or not at all; how many rows.

    Each batch is let go before the one after the next is asked for. Meanwhile the disk holds the rows twice.
    What ``batches`` raises is raised as it is, and the old file stays. Raises DataError for no batch, or for
    one whose columns are not those of the first.
    """
    import polars as pl

    coming = iter(batches)
    waiting = list(islice(coming, 1))  # what is wrong from the start leaves no new folder behind
    if not waiting:
        raise DataError("there is nothing to write", where=str(path), expected="at least one batch")
    path.parent.mkdir(parents=True, exist_ok=True)
    # polars cannot add rows to a Parquet file. It could draw the batches while it writes, but in a thread of
    # its own, where torch has other settings and Ctrl-C comes twice.
    with TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as folder:
        parts: list[Path] = []
        rows, schema = 0, waiting[0].schema
        while waiting:
            batch = waiting.pop()
            if batch.schema != schema:
                raise _other_columns(path, rows, schema, batch.schema)
            rows += batch.height
            parts.append(Path(folder) / f"{len(parts)}.parquet")
            with naming(path):
                batch.write_parquet(parts[-1])
            waiting.extend(islice(coming, 1))
        whole = pl.scan_parquet(parts, glob=False, hive_partitioning=False)
        write_with(path, whole.sink_parquet)
    return rows


def _other_columns(path: Path, row: int, first: pl.Schema, found: pl.Schema) -> DataError:
    def told(schema: pl.Schema) -> str:
        return ", ".join(f"{name} ({kind})" for name, kind in schema.items() if (name, kind) not in shared)

    shared = first.items() & found.items()
    return DataError(
        "the columns change on the way",
        where=f"{path}, from row {row} on",
        found=told(found) or "another order",
        expected=told(first) or ", ".join(first),
        fix="give all parts of the table the same columns and types",
    )
