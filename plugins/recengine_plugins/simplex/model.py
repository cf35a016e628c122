"""SimpleX."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from recengine.contracts.batch import HistoryBatch
from recengine.contracts.model import DataFacts
from recengine.data import Interactions
from recengine.data.interactions import ragged_positions
from recengine.nn.pairs import PairModel
from recengine.nn.ragged import keep_recent
from recengine.ops import SparseMatrix, propagate, sparse_matrix
from recengine_plugins.simplex.config import SimpleXConfig


class SimpleX(PairModel):
    """x_u = g p_u + (1 - g) V mean of y_i over the user's recent items, score = cosine (with a cosine loss).

    The mean over histories is one sparse product with the item table. Average pooling stands for the
    aggregation; the paper's default loss is the cosine contrastive loss ('ccl').
    Source: Mao et al., "SimpleX: a simple and strong baseline for collaborative filtering", CIKM 2021.
    """

    _histories: SparseMatrix | None = None

    def __init__(self, config: SimpleXConfig, facts: DataFacts) -> None:
        super().__init__(facts.n_users, facts.n_items, config.factors, config.init_std, config.l2)
        self.config = config
        self.mix = nn.Linear(config.factors, config.factors, bias=False)
        nn.init.eye_(self.mix.weight)

    def attach_data(self, train: Interactions) -> None:
        """Take the recent items of every user as well."""
        super().attach_data(train)
        counts = np.minimum(train.lengths(), self.config.longest)
        at, _ = ragged_positions(train.indptr[1:] - counts, counts)
        users = np.repeat(np.arange(train.n_users), counts)
        weights = np.repeat(1.0 / np.maximum(counts, 1), counts)
        shape = (train.n_users, train.n_items)
        self._histories = sparse_matrix(users, train.item[at].astype(np.int64), shape, values=weights)

    def tables(self) -> tuple[Tensor, Tensor]:
        items = self.items.weight
        if self._histories is None:
            return self.users.weight, items
        self._histories = self._histories.to(items.device)
        return self._fused(self.users.weight, propagate(self._histories, items)), items

    def user_vectors(self, histories: HistoryBatch) -> Tensor:
        """float [B, d]; users who are new or without a training event: the mapped mean of the history."""
        items, offsets = keep_recent(histories.items, histories.offsets, self.config.longest)
        table = self.items.weight
        means = nn.functional.embedding_bag(
            items.to(table.device), table, offsets[:-1].to(table.device), mode="mean"
        )
        new = self._fused(torch.zeros_like(means), means)
        known = self.trained(histories).to(table.device)[:, None]
        return torch.where(known, super().user_vectors(histories), new)

    def _fused(self, own: Tensor, means: Tensor) -> Tensor:
        share = self.config.own
        fused: Tensor = share * own + (1 - share) * self.mix(means)
        return fused
