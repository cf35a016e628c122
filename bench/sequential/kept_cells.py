"""A cell of bench_quality.py in a few kilobytes, so that it outlives the machine that measured it.

One target a user: its place among the first ten decides NDCG@10 and Recall@10. Kept are these places (0: not
among them) in the order of the evaluated users, and what the cell says of itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

K = 10


def places(ndcg: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Places of the target, 1 to 10, or 0, from NDCG@10 = 1 / log2(1 + place).

    Raises ValueError where a user's NDCG is not of one target.
    """
    hit = ndcg > 0
    found = np.zeros(len(ndcg), dtype=np.uint8)
    found[hit] = np.round(2.0 ** (1.0 / ndcg[hit]) - 1.0)
    if not np.allclose(scores(found)["ndcg@10"], ndcg, atol=1e-9):
        raise ValueError("NDCG@10 that is not of one target a user: its place cannot be told")
    return found


def scores(place: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """NDCG@10 and Recall@10 by user."""
    hit = place > 0
    ndcg = np.where(hit, 1.0 / np.log2(1.0 + np.maximum(place, 1)), 0.0)
    return {"ndcg@10": ndcg, "recall@10": hit.astype(np.float64)}


def write(path: Path, ndcg: NDArray[np.float64], told: Mapping[str, Any]) -> None:
    """One file a cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = np.frombuffer(json.dumps(told).encode(), np.uint8)
    with path.with_suffix(".part").open("wb") as file:
        np.savez_compressed(file, places=places(ndcg), told=words)
    path.with_suffix(".part").replace(path)


def read(path: Path) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """Scores by user and what the cell says of itself."""
    with np.load(path, allow_pickle=False) as held:
        return scores(held["places"]), json.loads(held["told"].tobytes())
