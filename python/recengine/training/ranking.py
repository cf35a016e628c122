"""Top-k of a batch of histories, by whatever the model can do, with what was seen left out."""

from __future__ import annotations

import torch
from torch import Tensor

from recengine.contracts.batch import HistoryBatch
from recengine.contracts.model import Generates, Represents, ScoresItems
from recengine.errors import PluginError
from recengine.evaluation.lists import checked_scores, checked_vectors
from recengine.ops import topk


def best(
    network: torch.nn.Module, histories: HistoryBatch, k: int, exclude_seen: bool
) -> tuple[Tensor, Tensor]:
    """ids int64 [B, k] (-1 where fewer are left) and scores [B, k] (-inf there), best first.

    Takes the strongest that the model has: vectors, dense scores, generated ids. What a model generates is
    taken as it is. Raises PluginError when it has none, and for scores that are not numbers; RecengineError
    where those come of weights that are not.
    """
    seen = histories if exclude_seen else None
    if isinstance(network, Represents):
        users = checked_vectors(network, network.user_vectors(histories), "user_vectors")
        return top_of_vectors(network, users, seen, k)
    if isinstance(network, ScoresItems):
        return top_of_scores(checked_scores(network, network.score_items(histories)), seen, k)
    if isinstance(network, Generates):
        return network.generate(histories, k)
    raise PluginError(
        "the model answers in no known way",
        found=type(network).__name__,
        expected="user_vectors and item_vectors, score_items, or generate",
    )


def top_of_vectors(
    network: Represents, users: Tensor, seen: HistoryBatch | None, k: int
) -> tuple[Tensor, Tensor]:
    """ids [B, k] and scores [B, k] for user vectors [B, d], computed in their dtype."""
    bias = network.item_bias()
    indptr, ids = (None, None) if seen is None else (seen.offsets, seen.items)
    scores, found = topk(
        users,
        network.item_vectors().to(users.dtype),
        k,
        bias=None if bias is None else bias.to(users.dtype),
        seen_indptr=None if indptr is None else indptr.to(users.device),
        seen_items=None if ids is None else ids.to(users.device),
    )
    return found, scores


def top_of_scores(scores: Tensor, seen: HistoryBatch | None, k: int) -> tuple[Tensor, Tensor]:
    """ids [B, k] and scores [B, k] of dense scores [B, n]; equal scores: smaller id first."""
    if seen is not None:
        lengths = seen.offsets[1:] - seen.offsets[:-1]
        row = torch.repeat_interleave(torch.arange(lengths.shape[0], device=lengths.device), lengths)
        scores = scores.index_put(
            (row.to(scores.device), seen.items.to(scores.device)), scores.new_tensor(-torch.inf)
        )
    k = min(k, scores.shape[1])
    values, ids = torch.sort(scores, dim=1, descending=True, stable=True)
    values, ids = values[:, :k], ids[:, :k]
    return torch.where(values == -torch.inf, -1, ids), values
