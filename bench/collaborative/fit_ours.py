"""Fits a classic model of recengine for bench_classic.py; run by peers.runner."""

from __future__ import annotations

from itertools import product

import harness
import numpy as np
import torch

from recengine.contracts.batch import HistoryBatch
from recengine.contracts.model import DataFacts
from recengine.data import Interactions, Vocabulary
from recengine.hooks import host


def main(given: dict) -> dict:
    """given: model, points (settings), users, items (.npy), n_users, n_items, seeds, out (folder)."""
    users, items = np.load(given["users"]), np.load(given["items"])
    vocabularies = [Vocabulary(np.arange(given[side])) for side in ("n_users", "n_items")]
    train = Interactions.from_arrays(
        users, items, user_vocabulary=vocabularies[0], item_vocabulary=vocabularies[1], ties="rows"
    )
    entry = host().registries["model"].get(given["model"])
    times = []
    for point, seed in product(range(len(given["points"])), given["seeds"]):
        config = entry.load_config().parse(given["points"][point])
        with harness.stopwatch() as watch:
            model = entry.load()(config, DataFacts(train.n_users, train.n_items))
            model.fit_directly(train, seed, lambda *_: None)
        times.append(watch.as_dict())
        write(model, train, f"{given['out']}/{point}-{seed}")
    return {"times": times}


def write(model: torch.nn.Module, train: Interactions, stem: str) -> None:
    """User and item vectors whose product is the score; for EASE the histories and the weights."""
    if hasattr(model, "weights"):
        np.save(f"{stem}.weights.npy", model.weights.numpy())
        return
    histories = HistoryBatch(
        torch.arange(train.n_users), torch.from_numpy(train.item).long(), torch.from_numpy(train.indptr)
    )
    left, right, bias = model.user_vectors(histories), model.item_vectors(), model.item_bias()
    if bias is not None:
        left = torch.cat([left, torch.ones(len(left), 1)], 1)
        right = torch.cat([right, bias[:, None]], 1)
    np.save(f"{stem}.users.npy", left.numpy())
    np.save(f"{stem}.items.npy", right.numpy())
