"""What the tests of the classic models share: tiny data, histories, and a plain evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recengine.contracts.batch import HistoryBatch
from recengine.contracts.model import DataFacts
from recengine.data import Interactions
from recengine.hooks import host


def make(name: str, train: Interactions, *, seed: int = 0, **settings: Any) -> Any:
    """A fitted model, found through the hooks as a user would find it."""
    entry = host().registries["model"].get(name)
    model = entry.load()(entry.load_config().parse(settings), DataFacts(train.n_users, train.n_items))
    model.fit_directly(train, seed, lambda *_: None)
    return model


def fresh(name: str, train: Interactions, **settings: Any) -> Any:
    entry = host().registries["model"].get(name)
    return entry.load()(entry.load_config().parse(settings), DataFacts(train.n_users, train.n_items))


def histories(train: Interactions, users: list[int] | None = None, *, known: bool = True) -> HistoryBatch:
    users = list(range(train.n_users)) if users is None else users
    rows = [train.item[train.indptr[u] : train.indptr[u + 1]] for u in users]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    items = np.concatenate([*rows, np.zeros(0, np.int32)]).astype(np.int64)
    ids = torch.tensor(users if known else [-1] * len(users), dtype=torch.int64)
    return HistoryBatch(ids, torch.from_numpy(items), torch.from_numpy(offsets.astype(np.int64)))


def scores(model: Any, given: HistoryBatch) -> torch.Tensor:
    """Dense scores, whichever way the model answers."""
    with torch.no_grad():
        if hasattr(model, "score_items"):
            return model.score_items(given)
        dense = model.user_vectors(given) @ model.item_vectors().T
        bias = model.item_bias()
        return dense if bias is None else dense + bias


def two_tastes(n_users: int = 60, n_items: int = 40, per_user: int = 8, seed: int = 0) -> Interactions:
    """Even users take items of the first half, odd users of the second half."""
    rng = np.random.default_rng(seed)
    half = n_items // 2
    rows = [rng.permutation(half)[:per_user] + half * (user % 2) for user in range(n_users)]
    users = np.repeat(np.arange(n_users), per_user)
    return Interactions.from_arrays(users, np.concatenate(rows), np.tile(np.arange(per_user), n_users))


def share_of_own_taste(model: Any, train: Interactions, *, known: bool = True) -> float:
    """How often the best unseen item is of the user's own half."""
    dense = scores(model, histories(train, known=known)).clone()
    dense[torch.from_numpy(train.user).long(), torch.from_numpy(train.item).long()] = -torch.inf
    best = dense.argmax(1).numpy()
    return float(np.mean((best >= train.n_items // 2) == (np.arange(train.n_users) % 2 == 1)))


def leave_last_out(path: Any) -> tuple[Interactions, np.ndarray]:
    """ml-100k: everything but each user's last row (ties by row order), and the item left out."""
    table = np.loadtxt(path, dtype=np.int64)
    every = Interactions.from_arrays(table[:, 0], table[:, 1], table[:, 3], ties="rows")
    last = every.indptr[1:] - 1
    keep = np.ones(len(every), bool)
    keep[last] = False
    return every.select(keep), every.item[last].astype(np.int64)


def hr_ndcg(
    dense: torch.Tensor, train: Interactions, targets: np.ndarray, k: int = 10
) -> tuple[float, float]:
    """HR@k and NDCG@k of one target a user, all items ranked, seen ones masked, ties against us."""
    dense = dense.clone().double()
    dense[torch.from_numpy(train.user).long(), torch.from_numpy(train.item).long()] = -torch.inf
    own = dense[torch.arange(len(targets)), torch.from_numpy(targets)]
    rank = ((dense >= own[:, None]).sum(1) - 1).numpy()
    hit = rank < k
    return float(hit.mean()), float((hit / np.log2(rank + 2)).mean())
