"""Score of an item = how often it was taken in the training data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recengine.contracts.batch import HistoryBatch
from recengine.contracts.model import DataFacts
from recengine.data import Interactions
from recengine.data.matrix import pair_matrix
from recengine_plugins.popularity.config import PopularityConfig


class Popularity(nn.Module):
    """score(u, i) = n_i / max n, the same for every user: vectors of length one, user vector 1.

    n_i: users who took i, or events of i (``count``). Equal counts rank by the smaller item row.
    """

    share: Tensor

    def __init__(self, config: PopularityConfig, facts: DataFacts) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("share", torch.zeros(facts.n_items))

    def fit_directly(self, train: Interactions, seed: int, progress: Any) -> None:
        """Count."""
        items = train.item if self.config.count == "events" else pair_matrix(train).columns
        counts = np.bincount(items, minlength=train.n_items)
        self.share.copy_(torch.from_numpy(counts / max(1, counts.max(initial=0))))

    def user_vectors(self, histories: HistoryBatch) -> Tensor:
        """float32 [B, 1], ones."""
        return torch.ones(len(histories), 1, device=self.share.device)

    def item_vectors(self) -> Tensor:
        """float32 [n_items, 1]."""
        return self.share[:, None]

    def item_bias(self) -> Tensor | None:
        return None
