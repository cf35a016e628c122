"""Top-k of vectors or dense scores with what was seen left out."""

from __future__ import annotations

import torch
from torch import Tensor

from recengine.contracts.batch import HistoryBatch


def top_of_vectors(
    users: Tensor, items: Tensor, bias: Tensor | None, seen: HistoryBatch | None, k: int
) -> tuple[Tensor, Tensor]:
    """ids [B, k] and scores [B, k] of users [B, d] against items [n, d]; ids -1 where fewer are left."""
    scores = users @ items.T
    return top_of_scores(scores if bias is None else scores + bias, seen, k)


def top_of_scores(scores: Tensor, seen: HistoryBatch | None, k: int) -> tuple[Tensor, Tensor]:
    """ids [B, k] and scores [B, k] of dense scores [B, n]; equal scores: smaller id first."""
    if seen is not None:
        lengths = seen.offsets[1:] - seen.offsets[:-1]
        row = torch.repeat_interleave(torch.arange(lengths.shape[0]), lengths)
        scores = scores.clone()
        scores[row, seen.items] = -torch.inf
    k = min(k, scores.shape[1])
    values, ids = torch.sort(scores, dim=1, descending=True, stable=True)
    values, ids = values[:, :k], ids[:, :k]
    return torch.where(values == -torch.inf, -1, ids), values
