"""A split in a folder, so that a loaded run can recommend and be evaluated."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from recengine.data import EvalTask, Interactions, Split
from recengine.data.clicks import ClickSplit, is_click_split
from recengine.errors import CheckpointError, DataError
from recengine.files import replacing, write_json
from recengine.training.checkpoint import load_json

HEADER = "split.json"


def save_split(folder: Path, split: Split | ClickSplit) -> None:
    """Write every distinct interaction store of the split once, and the questions of each task; or the tables
    of a click split."""
    if isinstance(split, ClickSplit):
        split.save(folder)
        return
    tasks = {"validation": split.validation, "test": split.test}
    stores: dict[str, Interactions] = {"train": split.train}
    about: dict[str, Any] = {}
    for name, task in tasks.items():
        if task is None:
            continue
        home = next((key for key, store in stores.items() if store is task.history), f"{name}_history")
        stores[home] = task.history
        about[name] = {"name": task.name, "history": home}
        _save_questions(folder / f"{name}.npz", task)
    for name, store in stores.items():
        store.save(folder / name)
    write_json(folder / HEADER, {"tasks": about, "description": split.description})


def load_any_split(folder: Path) -> Split | ClickSplit:
    """What ``save_split`` wrote, of either kind. Raises CheckpointError when a file is missing or damaged."""
    if not is_click_split(folder):
        return load_split(folder)
    try:
        return ClickSplit.load(folder)
    except DataError as broken:
        raise CheckpointError(
            "the split of the run cannot be read",
            where=str(folder),
            found=str(broken),
            fix="restore it from a copy, or fit again",
        ) from broken


def load_split(folder: Path) -> Split:
    """The inverse of ``save_split``; raises CheckpointError when a file is missing or damaged."""
    header = load_json(folder / HEADER)
    try:
        names = {"train", *(task["history"] for task in header["tasks"].values())}
        stores = {name: Interactions.load(folder / name) for name in names}
        tasks = {
            key: _load_questions(folder / f"{key}.npz", task["name"], stores[task["history"]])
            for key, task in header["tasks"].items()
        }
        return Split(stores["train"], tasks.get("validation"), tasks["test"], header["description"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, DataError) as broken:
        raise CheckpointError(
            "the split of the run cannot be read",
            where=str(folder),
            found=str(broken),
            fix="restore it from a copy, or fit again",
        ) from broken


def _save_questions(path: Path, task: EvalTask) -> None:
    arrays: dict[str, Any] = {"users": task.users, "indptr": task.indptr, "targets": task.targets}
    if task.times is not None:
        arrays["times"] = task.times
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _load_questions(path: Path, name: str, history: Interactions) -> EvalTask:
    if not zipfile.is_zipfile(path):
        raise DataError("this is no .npz file, or a damaged one", where=str(path))
    with np.load(path, allow_pickle=False) as held:
        times = held["times"] if "times" in held.files else None
        return EvalTask(name, held["users"], held["indptr"], held["targets"], history, times)
