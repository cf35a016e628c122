"""An encoded click log: columns of table rows, labels, and what else a row has. Batches are cut from it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recengine.data.clicks.coding import Ragged
from recengine.data.clicks.encoder import Column
from recengine.data.interactions import ragged_positions
from recengine.errors import DataError
from recengine.files import write_json

FORMAT = 1
HEADER = "table.json"
NOBODY = -(2**63)  # the group of a row of which it is not known whose it is
ROW_COLUMNS = ("labels", "groups", "times", "weights", "propensities")


@dataclass(frozen=True)
class ClickArrays:
    """Some rows: the arrays of a FeatureBatch. features: int32 [B], Ragged or float32 [B] by name."""

    features: dict[str, Column]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32] | None = None

    def tensors(self) -> dict[str, Any]:
        """``FeatureBatch(**arrays.tensors())``: ids and offsets int64, the rest float32."""
        import torch

        def one(column: Column) -> Any:
            if isinstance(column, Ragged):
                values = torch.from_numpy(column.values.astype(np.int64))
                return values, torch.from_numpy(np.ascontiguousarray(column.offsets))
            wide = column.astype(np.int64 if column.dtype.kind == "i" else np.float32)
            return torch.from_numpy(wide)

        return {
            "features": {name: one(column) for name, column in self.features.items()},
            "labels": torch.from_numpy(np.array(self.labels, np.float32)),
            "weights": None if self.weights is None else torch.from_numpy(np.array(self.weights, np.float32)),
        }


@dataclass(frozen=True, repr=False)
class ClickTable:
    """n rows. columns: by feature. labels: float32 [n], 0 or 1. groups: int64 [n], a hash of whose row it is,
    NOBODY where that is missing.
    times: int64 [n], dates in microseconds since 1970. weights: float32 [n], in the training loss.
    propensities: float32 [n]."""

    columns: dict[str, Column]
    labels: NDArray[np.float32]
    groups: NDArray[np.int64] | None = None
    times: NDArray[np.int64] | None = None
    weights: NDArray[np.float32] | None = None
    propensities: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def __repr__(self) -> str:
        return (
            f"ClickTable({len(self):,} rows, {len(self.columns)} features, {self.labels.mean():.4f} clicked)"
        )

    def take(self, at: NDArray[np.int64]) -> ClickArrays:
        """The rows ``at``, in that order."""
        return ClickArrays(
            {name: _taken(column, at) for name, column in self.columns.items()},
            self.labels[at],
            None if self.weights is None else self.weights[at],
        )

    def batches(self, rows: int = 8192) -> Iterator[ClickArrays]:
        """All rows in order."""
        for low in range(0, len(self), rows):
            yield self.take(np.arange(low, min(low + rows, len(self)), dtype=np.int64))

    def shuffled(self, rows: int, epoch: int, seed: int) -> Iterator[ClickArrays]:
        """All rows in an order that (seed, epoch) decides."""
        order = np.random.default_rng([seed, epoch, 0xC11C]).permutation(len(self))
        for low in range(0, len(self), rows):
            yield self.take(order[low : low + rows])

    def fingerprint(self) -> str:
        """sha256 (hex) of the content."""
        digest = hashlib.sha256()
        for name, part in _parts(self).items():
            digest.update(f"{name}:{part.dtype.str}:{part.shape[0]};".encode())
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write a folder of raw columns; the header, which makes it whole, last."""
        with TableWriter(folder) as writer:
            for low in range(0, max(1, len(self)), 1 << 20):
                at = np.arange(low, min(low + (1 << 20), len(self)), dtype=np.int64)
                rest = {name: getattr(self, name) for name in ROW_COLUMNS}
                writer.add(
                    {name: _taken(column, at) for name, column in self.columns.items()},
                    {name: None if column is None else column[at] for name, column in rest.items()},
                )

    @classmethod
    def load(cls, folder: Path) -> ClickTable:
        """What ``save`` or TableWriter wrote, memory-mapped. Raises DataError when it is not whole."""
        try:
            header = json.loads((folder / HEADER).read_text())
            parts = {name: _mapped(folder, name, about) for name, about in header["columns"].items()}
        except (OSError, ValueError, KeyError) as broken:
            raise DataError(
                "the click table cannot be read", where=str(folder), found=str(broken)
            ) from broken
        columns: dict[str, Column] = {}
        for name in header["features"]:
            ragged = f"feature.{name}.values" in parts
            columns[name] = (
                Ragged(parts[f"feature.{name}.values"], parts[f"feature.{name}.offsets"])
                if ragged
                else parts[f"feature.{name}"]
            )
        return cls(columns, **{name: parts.get(name) for name in ROW_COLUMNS})  # type: ignore[arg-type]


class TableWriter:
    """Writes a table to disk batch by batch: no more than a batch is in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._open: dict[str, Any] = {}
        self._about: dict[str, list[Any]] = {}
        self._features: list[str] = []
        self._ends: dict[str, int] = {}

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        for file in self._open.values():
            file.close()
        if kind is None:
            write_json(
                self.folder / HEADER,
                {"format": FORMAT, "features": self._features, "columns": self._about},
            )

    def add(self, columns: dict[str, Column], rest: dict[str, NDArray[Any] | None]) -> None:
        """Append rows."""
        self._features = list(columns)
        for name, column in columns.items():
            if not isinstance(column, Ragged):
                self._append(f"feature.{name}", column)
                continue
            key = f"feature.{name}.offsets"
            if key not in self._ends:
                self._append(key, np.zeros(1, np.int64))
            end = self._ends.get(key, 0)
            self._append(key, column.offsets[1:] + end)
            self._ends[key] = end + int(column.offsets[-1])
            self._append(f"feature.{name}.values", column.values)
        for name, values in rest.items():
            if values is not None:
                self._append(name, values)

    def _append(self, name: str, values: NDArray[Any]) -> None:
        if name not in self._open:
            number = len(self._open)
            self._about[name] = [f"{number}.bin", values.dtype.str, 0]
            self._open[name] = (self.folder / f"{number}.bin").open("wb")
        self._open[name].write(np.ascontiguousarray(values).tobytes())
        self._about[name][2] += int(values.shape[0])


def together(parts: list[ClickTable]) -> ClickTable:
    """Tables one after another."""
    first = parts[0]

    def joined(pieces: list[Any]) -> Any:
        if isinstance(pieces[0], Ragged):
            ends = np.cumsum([0, *(int(piece.offsets[-1]) for piece in pieces)])
            offsets = [piece.offsets[1:] + end for piece, end in zip(pieces, ends[:-1], strict=True)]
            return Ragged(
                np.concatenate([piece.values for piece in pieces]),
                np.concatenate([np.zeros(1, np.int64), *offsets]),
            )
        return np.concatenate(pieces)

    rest: dict[str, Any] = {
        name: None if getattr(first, name) is None else joined([getattr(part, name) for part in parts])
        for name in ROW_COLUMNS
    }
    return ClickTable(
        {name: joined([part.columns[name] for part in parts]) for name in first.columns}, **rest
    )


def _taken(column: Column, at: NDArray[np.int64]) -> Column:
    if not isinstance(column, Ragged):
        return column[at]
    begin = column.offsets[at]
    positions, offsets = ragged_positions(begin, column.offsets[at + 1] - begin)
    return Ragged(column.values[positions], offsets)


def _parts(table: ClickTable) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    for name, column in table.columns.items():
        if isinstance(column, Ragged):
            found |= {f"feature.{name}.values": column.values, f"feature.{name}.offsets": column.offsets}
        else:
            found[f"feature.{name}"] = column
    rest = {name: getattr(table, name) for name in ROW_COLUMNS}
    return found | {name: column for name, column in rest.items() if column is not None}


def _mapped(folder: Path, name: str, about: list[Any]) -> NDArray[Any]:
    file, dtype, length = about
    size = int(length) * np.dtype(dtype).itemsize
    path = folder / file
    if path.stat().st_size != size:
        raise ValueError(f"column '{name}' has {path.stat().st_size} bytes, expected {size}")
    return np.memmap(path, dtype, "r", shape=(int(length),)) if length else np.zeros(0, dtype)
