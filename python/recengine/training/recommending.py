"""Recommendations of a run, in original ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from recengine.contracts.batch import HistoryBatch
from recengine.contracts.model import Generates, Represents, ScoresItems
from recengine.errors import DataError, PluginError, UsageError

if TYPE_CHECKING:
    import polars as pl

    from recengine.training.run import Run

BLOCK = 1024


def recommend(
    run: Run, users: Sequence[Any] | Mapping[Any, Sequence[Any]], k: int = 10, *, exclude_seen: bool = True
) -> pl.DataFrame:
    """The k best items for each user, in original ids: columns user, rank (from 1), item, score.

    users: ids of known users (their history is everything the split knows of them), or a mapping from any
    label to a history of item ids, oldest first, for people that are new or have moved on. Items of such a
    history that the model has never met are passed over. A user with fewer than k items left gets fewer.
    exclude_seen: leave out the items of the history.
    Raises DataError for unknown users, UsageError for k < 1.
    """
    import polars as pl

    if k < 1:
        raise UsageError("k must be at least 1", where="recommend", found=k)
    labels = list(users)
    batch = _given(run, users) if isinstance(users, Mapping) else _known(run, labels)
    network = run.model
    network.eval()
    ids, scores = [], []
    with torch.inference_mode():
        for low in range(0, len(labels), BLOCK):
            found = best(network, _slice(batch, low, min(low + BLOCK, len(labels))), k, exclude_seen)
            ids.append(found[0].numpy())
            scores.append(found[1].numpy())
    items = np.concatenate(ids) if ids else np.empty((0, k), np.int64)
    values = np.concatenate(scores) if scores else np.empty((0, k), np.float32)
    kept = items >= 0
    row, rank = np.nonzero(kept)
    names = run.split.train.items.tokens
    return pl.DataFrame(
        {
            "user": [labels[index] for index in row],
            "rank": rank + 1,
            "item": names[items[kept]].tolist(),
            "score": values[kept].astype(np.float64),
        }
    )


def best(
    network: torch.nn.Module, histories: HistoryBatch, k: int, exclude_seen: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """ids int64 [B, k] (-1 where fewer are left) and scores [B, k], best first, of a batch of histories."""
    from recengine.training.ranking import top_of_scores, top_of_vectors

    if isinstance(network, Represents):
        return top_of_vectors(
            network.user_vectors(histories),
            network.item_vectors(),
            network.item_bias(),
            histories if exclude_seen else None,
            k,
        )
    if isinstance(network, ScoresItems):
        return top_of_scores(network.score_items(histories), histories if exclude_seen else None, k)
    if isinstance(network, Generates):
        return network.generate(histories, k)
    raise PluginError(
        "the model answers in no known way",
        found=type(network).__name__,
        expected="user_vectors and item_vectors, score_items, or generate",
    )


def _known(run: Run, labels: Sequence[Any]) -> HistoryBatch:
    vocabulary = run.split.train.users
    rows = vocabulary.rows(np.asarray(labels)) if labels else np.empty(0, np.int64)
    unknown = [label for label, row in zip(labels, rows, strict=True) if row < 0]
    if unknown:
        raise DataError(
            "users that the run does not know",
            where="recommend",
            found=", ".join(map(repr, unknown[:5])) + (" …" if len(unknown) > 5 else ""),
            expected="ids of the training data",
            fix="give new people as a mapping from a label to their items",
        )
    return HistoryBatch(**run.split.test.history.history(rows).tensors())


def _given(run: Run, histories: Mapping[Any, Sequence[Any]]) -> HistoryBatch:
    vocabulary = run.split.train.items
    rows: list[NDArray[np.int64]] = []
    for items in histories.values():
        found = vocabulary.rows(np.asarray(items)) if len(items) else np.empty(0, np.int64)
        rows.append(found[found >= 0])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([row.size for row in rows], dtype=np.int64)])
    return HistoryBatch(
        torch.full((len(rows),), -1, dtype=torch.int64),
        torch.from_numpy(np.concatenate(rows) if rows else np.empty(0, np.int64)),
        torch.from_numpy(offsets),
    )


def _slice(batch: HistoryBatch, low: int, high: int) -> HistoryBatch:
    a, b = int(batch.offsets[low]), int(batch.offsets[high])
    times = None if batch.times is None else batch.times[a:b]
    return HistoryBatch(batch.users[low:high], batch.items[a:b], batch.offsets[low : high + 1] - a, times)
