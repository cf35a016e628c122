"""From a click log to encoded parts: rows divided first, the encoder learned from training rows alone."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recengine.data.clicks.coding import as_numbers, as_text, text_hash
from recengine.data.clicks.dividing import (
    TEST,
    TRAIN,
    VALIDATION,
    ClickSplitConfig,
    Parts,
    divided,
    labels_of,
    times_of,
)
from recengine.data.clicks.encoder import FeatureEncoder, Seen, hardly_known
from recengine.data.clicks.log import ClickLog
from recengine.data.clicks.place import LogPlace
from recengine.data.clicks.schema import ClickDataConfig
from recengine.data.clicks.table import NOBODY, ClickTable, TableWriter, together
from recengine.data.ordering import tie_hash
from recengine.errors import DataError, DataWarning
from recengine.files import write_json

if TYPE_CHECKING:
    import polars as pl

HEADER = "clicks.json"


@dataclass(frozen=True)
class ClickSplit:
    """Encoded rows to learn from and to be asked about; ``encoder`` saw the training rows alone."""

    train: ClickTable
    validation: ClickTable | None
    test: ClickTable
    encoder: FeatureEncoder
    description: dict[str, Any] = field(default_factory=dict)

    def extras(self) -> dict[str, Any]:
        """What a model must know (DataFacts.extras): the features, and the share of clicks in training."""
        weights = self.train.weights
        rate = float(np.average(self.train.labels, weights=weights))
        return {"features": self.encoder.facts(), "click_rate": rate}

    def tables(self) -> dict[str, ClickTable]:
        """Parts by name."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: table for name, table in found.items() if table is not None}

    def save(self, folder: Path) -> None:
        """Write tables, encoder and description; the header last. A split that lies there already stays."""
        for name, table in self.tables().items():
            table.save(folder / name)
        _write_header(folder, self)

    @classmethod
    def load(cls, folder: Path) -> ClickSplit:
        """What ``save`` or ``prepare`` wrote, memory-mapped. Raises DataError when it is not whole."""
        try:
            told = json.loads((folder / HEADER).read_text())
            tables = {name: ClickTable.load(folder / name) for name in told["parts"]}
            encoder = FeatureEncoder.from_description(told["encoder"])
            return cls(
                tables["train"], tables.get("validation"), tables["test"], encoder, told["description"]
            )
        except (OSError, ValueError, KeyError) as broken:
            raise DataError(
                "there is no whole click split here", where=str(folder), found=str(broken)
            ) from broken


def is_click_split(folder: Path) -> bool:
    """Whether a split lies in ``folder``."""
    return (folder / HEADER).is_file()


def prepare(
    log: ClickLog,
    config: ClickDataConfig | None = None,
    split: ClickSplitConfig | None = None,
    *,
    folder: Path | None = None,
) -> ClickSplit:
    """Divide and encode ``log`` in three passes over it: labels, training values, rows.

    config: over what the log says of its columns. folder: where the tables are written batch by batch, for
    logs that do not fit into memory; without it they are held.
    Raises DataError for a label that is not 0 or 1, training rows with one label only (also when
    ``keep_negatives`` leaves none without a click), a part without rows, or columns that are not what the
    features declare.
    """
    log = log.with_config(config or ClickDataConfig())
    labels, parts, facts = divided(log, split or ClickSplitConfig())
    _need_both(labels[parts == TRAIN])
    kept = _kept(labels, parts, log.config, (split or ClickSplitConfig()).seed)
    _need_negatives(labels[kept & (parts == TRAIN)], log.config)
    encoder = FeatureEncoder.fit(log.config, _rows_where(log, kept & (parts == TRAIN)))
    seen = {name: Seen() for name in ("train", "validation", "test")}
    numbers = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    tables = {}
    for name, number in numbers.items():
        chosen = kept & (parts == number)
        if not chosen.any():
            continue
        made = (_table(frame, encoder, name == "train", seen[name]) for frame in _rows_where(log, chosen))
        tables[name] = together(list(made)) if folder is None else _written(made, folder / name)
    description = {
        "data": log.name,
        **facts,
        "rows": {name: len(table) for name, table in tables.items()},
        "click_rate": {name: float(table.labels.mean()) for name, table in tables.items()},
        "unknown": {name: one.unknown for name, one in seen.items() if name in tables},
        "missing": {name: one.missing for name, one in seen.items() if name in tables},
    }
    made_split = ClickSplit(tables["train"], tables.get("validation"), tables["test"], encoder, description)
    if folder is not None:
        _write_header(folder, made_split)
    return made_split


def serving_rows(encoder: FeatureEncoder, frame: Any) -> ClickTable:
    """Rows to be scored: encoded as in training, without labels (all 0). Warns (DataWarning) of features
    with hardly a value that training knew. Raises DataError where the table does not have the features'
    columns, or has something else in them."""
    log = ClickLog.from_frame(frame)
    columns = encoder.encode(log.frames[0])
    strange = [name for name, column in columns.items() if hardly_known(column)]
    if strange:
        warnings.warn(
            f"hardly a value of {', '.join(strange)} is known from training: are they the same ids, written "
            "the same way?",
            DataWarning,
            stacklevel=3,
        )
    return ClickTable(columns, np.zeros(log.frames[0].height, np.float32))


def _need_both(labels: NDArray[np.float32]) -> None:
    if labels.min() == labels.max():
        raise DataError(
            "the training rows have one label only",
            found=f"{labels.size} rows, all {int(labels[0])}",
            expected="rows with 0 and rows with 1",
            fix="check the label column and data.positive_from; sample negatives where none were kept",
        )


def _need_negatives(labels: NDArray[np.float32], config: ClickDataConfig) -> None:
    if labels.min() > 0:
        raise DataError(
            "no training row without a click was kept",
            where="data.keep_negatives",
            found=f"{config.keep_negatives}, and {labels.size} training rows left, all with a click",
            expected="a share that leaves rows without a click",
            fix="raise data.keep_negatives, or leave it out: 1 keeps all rows",
        )


def _kept(labels: NDArray[np.float32], parts: Parts, config: ClickDataConfig, seed: int) -> NDArray[np.bool_]:
    """Which rows stay: all but the training rows without a click that ``keep_negatives`` drops."""
    kept = np.ones(labels.size, bool)
    if config.keep_negatives < 1:
        chance = tie_hash(np.arange(labels.size), seed ^ 0x0DD5).astype(np.float64) / 2.0**64
        kept &= (labels > 0) | (parts != TRAIN) | (chance < config.keep_negatives)
    return kept


def _rows_where(log: ClickLog, chosen: NDArray[np.bool_]) -> Iterator[pl.DataFrame]:
    import polars as pl

    about = log.config
    columns = [spec.source(name) for name, spec in about.features.items()]
    columns += [c for c in (about.label, about.group, about.time, about.weight, about.propensity) if c]
    low = 0
    for frame in log.numbered(columns):
        mask = chosen[low : low + frame.height]
        low += frame.height
        if mask.any():
            yield frame.filter(pl.Series(mask))


def _table(frame: pl.DataFrame, encoder: FeatureEncoder, training: bool, seen: Seen) -> ClickTable:
    about = encoder.config
    labels = labels_of(frame, about)
    weights = None
    if about.weight:
        weights = _positive(frame, about.weight, "a weight")
    if training and about.keep_negatives < 1:
        scale = np.where(labels > 0, 1.0, 1.0 / about.keep_negatives).astype(np.float32)
        weights = scale if weights is None else weights * scale
    return ClickTable(
        encoder.encode(frame, seen),
        labels,
        _owners(frame, about.group) if about.group else None,
        times_of(frame, about.time)[0] if about.time else None,
        weights,
        _positive(frame, about.propensity, "a propensity", 1.0) if about.propensity else None,
    )


def _owners(frame: pl.DataFrame, column: str) -> NDArray[np.int64]:
    owners = as_text(frame[column], LogPlace.of(frame, column))
    return np.where(owners.is_null().to_numpy(), NOBODY, text_hash(owners))


def _positive(frame: pl.DataFrame, column: str, what: str, most: float = float("inf")) -> NDArray[np.float32]:
    place = LogPlace.of(frame, column)
    values = as_numbers(frame[column], place)
    right = (values > 0) & (values <= most)
    if not right.all():
        row = int(np.argmin(right))
        raise DataError(
            f"{what} is {'above 1' if values[row] > most else 'not above 0'}",
            where=place.at(row),
            found=values[row],
            expected="above 0" if most > 1 else "above 0, at most 1",
        )
    return values.astype(np.float32)


def _written(tables: Iterator[ClickTable], folder: Path) -> ClickTable:
    from recengine.data.clicks.table import ROW_COLUMNS

    with TableWriter(folder) as writer:
        for table in tables:
            writer.add(table.columns, {name: getattr(table, name) for name in ROW_COLUMNS})
    return ClickTable.load(folder)


def _write_header(folder: Path, split: ClickSplit) -> None:
    write_json(
        folder / HEADER,
        {
            "parts": list(split.tables()),
            "encoder": split.encoder.describe(),
            "description": split.description,
        },
    )
