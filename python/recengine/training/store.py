"""A split in a folder: parquet tables of rows, so that a loaded run can recommend and be evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recengine.data import EvalTask, Interactions, Split, Vocabulary
from recengine.errors import CheckpointError
from recengine.training.checkpoint import load_json
from recengine.training.files import write_json, write_with


def save_split(folder: Path, split: Split) -> None:
    """Write vocabularies (users.parquet, items.parquet), the training rows and the tasks."""
    _save_vocabulary(folder / "users.parquet", split.train.users)
    _save_vocabulary(folder / "items.parquet", split.train.items)
    _save_events(folder / "train.parquet", split.train)
    tasks: dict[str, Any] = {"test": split.test}
    if split.validation is not None:
        tasks["validation"] = split.validation
    for name, task in tasks.items():
        shared = task.history is split.train
        if not shared:
            _save_events(folder / f"{name}_history.parquet", task.history)
        _save_targets(folder / f"{name}_targets.parquet", task)
    facts = {
        "description": split.description,
        "ties": split.train.ties,
        "seed": split.train.seed,
        "tasks": {
            name: {"name": task.name, "history": "train" if task.history is split.train else name}
            for name, task in tasks.items()
        },
    }
    write_json(folder / "split.json", facts)


def load_split(folder: Path) -> Split:
    """The inverse of ``save_split``; raises CheckpointError when a file is missing or damaged."""
    facts = load_json(folder / "split.json")
    try:
        users, items = (_load_vocabulary(folder / f"{name}.parquet") for name in ("users", "items"))
        train = _load_events(folder / "train.parquet", users, items, facts)
        tasks = {}
        for name, about in facts["tasks"].items():
            history = train
            if about["history"] != "train":
                history = _load_events(folder / f"{name}_history.parquet", users, items, facts)
            tasks[name] = _load_targets(folder / f"{name}_targets.parquet", about["name"], history)
    except (OSError, pl.exceptions.PolarsError, KeyError) as broken:
        raise CheckpointError(
            "the split of the run cannot be read", where=str(folder), found=str(broken)
        ) from broken
    return Split(train, tasks.get("validation"), tasks["test"], facts["description"])


def _save_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    tokens = vocabulary.tokens
    column = tokens if tokens.dtype.kind in "iu" else tokens.astype(object)
    write_with(
        path, pl.DataFrame({"token": column.tolist() if column.dtype == object else column}).write_parquet
    )


def _load_vocabulary(path: Path) -> Vocabulary:
    column = pl.read_parquet(path)["token"]
    return Vocabulary(
        column.to_numpy() if column.dtype.is_integer() else np.array(column.to_list(), dtype=str)
    )


def _save_events(path: Path, events: Interactions) -> None:
    columns: dict[str, Any] = {"user": events.user, "item": events.item, "source": events.source}
    if events.time is not None:
        columns["time"] = events.time
    if events.weight is not None:
        columns["weight"] = events.weight
    write_with(path, pl.DataFrame(columns).write_parquet)


def _load_events(path: Path, users: Vocabulary, items: Vocabulary, facts: dict[str, Any]) -> Interactions:
    table = pl.read_parquet(path)

    def column(name: str, kind: Any) -> NDArray[Any]:
        return table[name].to_numpy().astype(kind, copy=False)

    user = column("user", np.int32)
    counts = np.bincount(user, minlength=len(users))
    return Interactions(
        user,
        column("item", np.int32),
        column("time", np.int64) if "time" in table.columns else None,
        column("weight", np.float32) if "weight" in table.columns else None,
        column("source", np.int64),
        users,
        items,
        np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)]),
        facts["ties"],
        facts["seed"],
    )


def _save_targets(path: Path, task: EvalTask) -> None:
    lengths = np.diff(task.indptr)
    table = pl.DataFrame(
        {"user": task.users, "targets": np.split(task.targets, task.indptr[1:-1])}, strict=False
    )
    assert table.height == lengths.size
    write_with(path, table.write_parquet)


def _load_targets(path: Path, name: str, history: Interactions) -> EvalTask:
    table = pl.read_parquet(path)
    lengths = table["targets"].list.len().to_numpy().astype(np.int64)
    return EvalTask(
        name,
        table["user"].to_numpy().astype(np.int64),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        table["targets"].explode().drop_nulls().to_numpy().astype(np.int64),
        history,
    )
