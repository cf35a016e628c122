"""Logistic regression and the factorisation machine."""

from __future__ import annotations

from torch import Tensor

from recengine.contracts.model import DataFacts
from recengine.nn.clicks import ClickConfig, ClickModel, FirstOrder
from recengine.nn.features import Features
from recengine_plugins.ctr.config import FMConfig, LRConfig


class LR(ClickModel):
    """logit = b + sum of one weight a value (of a number: w x + c)."""

    def __init__(self, config: LRConfig, facts: DataFacts) -> None:
        pulls = {"embedding_l2": config.embedding_l2, "table_l2": config.table_l2}
        super().__init__(ClickConfig(embedding_dim=1, **pulls), facts)

    def score(self, vectors: Tensor, features: Features) -> Tensor:
        return vectors.sum((1, 2))


class FM(ClickModel):
    """logit = b + sum w_i + sum over pairs <v_i, v_j>. Source: Rendle, ICDM 2010."""

    def __init__(self, config: FMConfig, facts: DataFacts) -> None:
        super().__init__(config, facts)
        self.first = FirstOrder(self)

    def score(self, vectors: Tensor, features: Features) -> Tensor:
        return self.first(features) + pair_sum(vectors)


def pair_sum(vectors: Tensor) -> Tensor:
    """sum over i < j of <v_i, v_j>, [B], as (|sum v|^2 - sum |v|^2) / 2."""
    return 0.5 * (vectors.sum(1).square() - vectors.square().sum(1)).sum(1)
