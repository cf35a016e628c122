"""Item-based nearest neighbours (Deshpande and Karypis, ACM TOIS 2004)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recengine.contracts.batch import HistoryBatch
from recengine.contracts.model import DataFacts
from recengine.data import Interactions
from recengine.data.matrix import pair_matrix
from recengine.ops.factorization import cooccurrence
from recengine.ops.histories import distinct_rows
from recengine_plugins.itemknn.config import ItemKNNConfig

BLOCK_CELLS = 1 << 24  # cells of the item-item matrix that exist at a time


class ItemKNN(nn.Module):
    """Every item keeps its most similar items; a history is answered by the sum of its items' lists.

        c_ij = users of both i and j, n_i = users of i
        cosine:  s_ij = c_ij / (sqrt(n_i n_j) + shrinkage)
        jaccard: s_ij = c_ij / (n_i + n_j - c_ij + shrinkage)
        score(u, j) = sum of s_ij over the distinct items i of the history that have j among their neighbours

    A user is nothing but the history, so somebody new is answered like anybody else.
    """

    similar: Tensor
    weights: Tensor

    def __init__(self, config: ItemKNNConfig, facts: DataFacts) -> None:
        super().__init__()
        self.config, self.n_items = config, facts.n_items
        kept = min(config.neighbors, max(0, facts.n_items - 1))
        self.register_buffer("similar", torch.zeros(facts.n_items, kept, dtype=torch.int64))
        self.register_buffer("weights", torch.zeros(facts.n_items, kept))

    def fit_directly(self, train: Interactions, seed: int, progress: Any) -> None:
        """The item-item matrix block by block, never whole."""
        matrix = pair_matrix(train)
        by_item = matrix.transposed()
        parts = [
            torch.from_numpy(part)
            for part in (matrix.indptr, matrix.columns, by_item.indptr, by_item.columns)
        ]
        users = parts[2].diff().to(torch.float32)
        block = max(1, BLOCK_CELLS // max(1, self.n_items))
        for first in range(0, self.n_items, block):
            last = min(self.n_items, first + block)
            both = cooccurrence(*parts, first=first, last=last)
            alike = both / self._denominator(users[first:last, None], users, both)
            alike.nan_to_num_(0.0)  # no shrinkage, and an item that nobody took
            own = torch.arange(first, last)
            alike[own - first, own] = -1.0
            weights, similar = alike.topk(self.similar.shape[1])
            self.similar[first:last], self.weights[first:last] = similar, weights.clamp(min=0.0)
            progress(last, self.n_items, "items")

    def _denominator(self, own: Tensor, other: Tensor, both: Tensor) -> Tensor:
        if self.config.similarity == "jaccard":
            return own + other - both + self.config.shrinkage
        return (own * other).sqrt() + self.config.shrinkage

    def score_items(self, histories: HistoryBatch) -> Tensor:
        """float32 [B, n_items]."""
        items, offsets, _ = distinct_rows(histories.items, histories.offsets)
        rows = torch.arange(len(histories), device=items.device).repeat_interleave(offsets.diff())
        scores = torch.zeros(len(histories) * self.n_items, device=items.device)
        for rank in range(self.similar.shape[1]):  # one neighbour a pass: memory stays that of the history
            at = rows * self.n_items + self.similar[items, rank]
            scores.index_add_(0, at, self.weights[items, rank])
        return scores.view(len(histories), self.n_items)
