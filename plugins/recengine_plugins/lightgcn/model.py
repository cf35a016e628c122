"""LightGCN on the engine's sparse propagation."""

from __future__ import annotations

from torch import Tensor

from recengine.contracts.model import DataFacts
from recengine.nn.graph import GraphPairModel
from recengine_plugins.lightgcn.config import LightGCNConfig


class LightGCN(GraphPairModel):
    """[x; y] = mean over k = 0 .. K of A^k E, A = D^-1/2 [[0, R], [R^T, 0]] D^-1/2, E the learned vectors.

    Source: He et al., "LightGCN: simplifying and powering graph convolution network for recommendation",
    SIGIR 2020.
    """

    def __init__(self, config: LightGCNConfig, facts: DataFacts) -> None:
        super().__init__(
            facts.n_users,
            facts.n_items,
            config.factors,
            config.init_std,
            config.l2,
            norm_power=config.norm_power,
        )
        self.config = config

    def tables(self) -> tuple[Tensor, Tensor]:
        return self.parted(self.averaged(self.config.layers))
