"""Random scores that depend on the seed, the user and the item, and on nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recengine.contracts.batch import HistoryBatch
from recengine.contracts.model import DataFacts
from recengine.data import Interactions
from recengine_plugins.random.config import RandomConfig


class RandomOrder(nn.Module):
    """score(u, i) = uniform in [0, 1), a hash of (seed, u, i).

    A new user is told apart by the history. The same question has the same answer in any batch.
    """

    seed: Tensor

    def __init__(self, config: RandomConfig, facts: DataFacts) -> None:
        super().__init__()
        self.config, self.facts = config, facts
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))

    def fit_directly(self, train: Interactions, seed: int, progress: Any) -> None:
        """Keep the seed."""
        self.seed.fill_(seed)

    def score_items(self, histories: HistoryBatch) -> Tensor:
        """float32 [B, n_items]."""
        lengths = histories.offsets.diff()
        row = torch.arange(len(histories), device=self.seed.device).repeat_interleave(lengths)
        of_history = torch.zeros_like(histories.users).index_add(0, row, _mix(histories.items + 1))
        person = torch.where(histories.users >= 0, histories.users, -1 - (of_history & 0x3FFFFFFFFFFFFFFF))
        items = torch.arange(self.facts.n_items, device=self.seed.device)
        bits = _mix(_mix(person + _mix(self.seed))[:, None] + items)
        return ((bits >> 40) & 0xFFFFFF).to(torch.float32) / float(1 << 24)


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64 that wraps around."""
    x = x * -7046029254386353131  # 0x9E3779B97F4A7C15
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
