"""Data, splits and ranking that bench_classic.py gives to both sides alike."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recengine.ops.retrieval import topk

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RECENGINE_DATA", REPOSITORY.parent / "shared" / "data"))


@dataclass(frozen=True)
class Case:
    """Training pairs sorted by user; targets by user in CSR; users without targets are not evaluated."""

    name: str
    users: NDArray[np.int32]
    items: NDArray[np.int32]
    indptr: NDArray[np.int64]
    targets: NDArray[np.int32]
    n_items: int

    @property
    def n_users(self) -> int:
        return len(self.indptr) - 1


def ml100k(validation: bool = False) -> Case:
    """Leave-last-one-out by time, ties by row; validation: the same once more on what remains."""
    path = DATA / "restricted/ml-100k/u.data.gz"
    table = np.loadtxt(path, dtype=np.int64)
    order = np.lexsort((np.arange(len(table)), table[:, 3], table[:, 0]))
    users, items = (table[order, column].astype(np.int32) - 1 for column in (0, 1))
    n_users, n_items = int(users.max()) + 1, int(items.max()) + 1
    for _ in range(2 if validation else 1):
        last = np.flatnonzero(np.diff(users, append=-1))
        targets = items[last]
        users, items = np.delete(users, last), np.delete(items, last)
    name = "ml-100k validation" if validation else "ml-100k"
    return Case(name, users, items, np.arange(n_users + 1, dtype=np.int64), targets, n_items)


def gowalla(validation: bool = False) -> Case:
    """The published lists; validation: a tenth of each user's training items, drawn with seed 0."""
    train, test = (_lists(DATA / f"cf/gowalla/{part}.txt.gz") for part in ("train", "test"))
    if validation:
        held = np.random.default_rng(0).random(len(train[0])) < 0.1
        test = (train[0][held], train[1][held])
        train = (train[0][~held], train[1][~held])
    n_users = int(max(train[0].max(), test[0].max())) + 1
    n_items = int(max(train[1].max(), test[1].max())) + 1
    counts = np.bincount(test[0], minlength=n_users)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Case("gowalla validation" if validation else "gowalla", *train, indptr, test[1], n_items)


def _lists(path: Path) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    with gzip.open(path, "rt") as lines:
        rows = [np.array(line.split(), np.int32) for line in lines]
    rows.sort(key=lambda row: int(row[0]))
    users = np.concatenate([np.full(len(row) - 1, row[0], np.int32) for row in rows])
    return users, np.concatenate([row[1:] for row in rows])


def quality(case: Case, stem: Path, k: int = 10) -> dict[str, float]:
    """HR@k and NDCG@k, all items ranked, training items masked, of what a fit wrote to ``stem``.*.npy."""
    asked = np.flatnonzero(np.diff(case.indptr))
    rows, own = _seen(case, asked)
    if Path(f"{stem}.weights.npy").exists():
        queries = np.zeros((len(asked), case.n_items), np.float32)
        queries[np.repeat(np.arange(len(asked)), np.diff(rows)), own] = 1
        items = np.ascontiguousarray(np.load(f"{stem}.weights.npy").T)
    else:
        queries, items = np.load(f"{stem}.users.npy")[asked], np.load(f"{stem}.items.npy")
    given = (torch.from_numpy(part) for part in (queries, items))
    seen = {"seen_indptr": torch.from_numpy(rows), "seen_items": torch.from_numpy(own)}
    best = topk(*given, k, **seen)[1].numpy()
    targets = np.repeat(np.arange(case.n_users), np.diff(case.indptr)) * case.n_items + case.targets
    hits = np.isin(asked[:, None] * case.n_items + best, targets) & (best >= 0)
    gains = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(gains)[np.minimum(k, np.diff(case.indptr)[asked]) - 1]
    return {"hr": float(hits.any(1).mean()), "ndcg": float(((hits @ gains) / ideal).mean())}


def _seen(case: Case, asked: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training items of the asked users, ascending, in CSR."""
    order = np.lexsort((case.items, case.users))
    counts = np.bincount(case.users, minlength=case.n_users)
    chosen = np.isin(case.users[order], asked)
    indptr = np.concatenate([[0], np.cumsum(counts[asked])]).astype(np.int64)
    return indptr, case.items[order][chosen].astype(np.int64)
