"""The data sets of the sequential benchmarks, read from the folder of real data ($RECENGINE_DATA)."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from recengine.data import Interactions

ROOT = Path(os.environ.get("RECENGINE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def load(name: str) -> Interactions:
    """One of ``NAMES``, each user's events in order."""
    return NAMES[name]()


def _lines(path: str) -> Interactions:
    """'user item item ...' a line, oldest first."""
    with gzip.open(ROOT / path, "rt") as file:
        rows = [np.array(line.split(), np.int64) for line in file]
    items = np.concatenate([row[1:] for row in rows])
    users = np.repeat([row[0] for row in rows], [len(row) - 1 for row in rows])
    return _ordered(users, items)


def _pairs(path: str) -> Interactions:
    """'user item' a line, in order."""
    with gzip.open(ROOT / path, "rb") as file:
        rows = np.loadtxt(file, dtype=np.int64)
    return _ordered(rows[:, 0], rows[:, 1])


def _ordered(users: np.ndarray, items: np.ndarray) -> Interactions:
    """The order of the rows is the order in time; nothing more is known of time."""
    return Interactions.from_arrays(users, items, ties="rows")


def _ml_100k() -> Interactions:
    with gzip.open(ROOT / "restricted" / "ml-100k" / "u.data.gz") as file:
        rows = np.loadtxt(file, dtype=np.int64)
    return Interactions.from_arrays(rows[:, 0], rows[:, 1], rows[:, 3])


def _ml_latest_small() -> Interactions:
    with gzip.open(ROOT / "ml-latest-small" / "ratings.csv.gz") as file:
        rows = np.loadtxt(file, delimiter=",", skiprows=1)
    rows = rows.astype(np.int64)
    return Interactions.from_arrays(rows[:, 0], rows[:, 1], rows[:, 3])


NAMES: dict[str, Callable[[], Interactions]] = {
    "ml-100k": _ml_100k,
    "ml-latest-small": _ml_latest_small,
    "beauty": lambda: _lines("amazon_sequences/Beauty.txt.gz"),
    "sports": lambda: _lines("amazon_sequences/Sports_and_Outdoors.txt.gz"),
    "video": lambda: _pairs("amazon_sequences/sasrec_Video.txt.gz"),
    "bert4rec-beauty": lambda: _pairs("amazon_sequences/bert4rec_Beauty.txt.gz"),
}
