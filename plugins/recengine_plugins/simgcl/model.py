"""SimGCL on the engine's sparse propagation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from recengine.contracts.batch import PairBatch, StepContext
from recengine.contracts.model import DataFacts
from recengine.nn.graph import GraphPairModel, noisy
from recengine.nn.unit import unit_rows
from recengine.ops import info_nce
from recengine_plugins.simgcl.config import SimGCLConfig


class SimGCL(GraphPairModel):
    """LightGCN's vectors without layer 0, [x; y] = mean over k = 1 .. K of A^k E, under the ranking loss.

    Two more passes add to every node of every layer a random vector of length ``noise`` in the node's own
    orthant; their read-outs are contrasted by InfoNCE over the distinct users and items of the batch:

        loss = ranking + contrast (InfoNCE(x', x'') + InfoNCE(y', y''))

    Source: Yu et al., "Are graph augmentations necessary? Simple graph contrastive learning for
    recommendation", SIGIR 2022.
    """

    def __init__(self, config: SimGCLConfig, facts: DataFacts) -> None:
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
        return self.parted(self.averaged(self.config.layers, first=1))

    def training_loss(self, batch: PairBatch, context: StepContext) -> Tensor:
        ranking = super().training_loss(batch, context)
        if not self.config.contrast:
            return ranking
        one, other = self._view(), self._view()
        total = ranking.new_zeros(())
        for (a, b), ids in zip(zip(one, other, strict=True), (batch.users, batch.items), strict=True):
            rows = torch.unique(ids)
            views = [unit_rows(functional.embedding(rows, table)) for table in (a, b)]
            total = total + info_nce(*views, temperature=self.config.contrast_temperature)
        return ranking + self.config.contrast * total

    def _view(self) -> tuple[Tensor, Tensor]:
        """Read-out of a pass with noise: users and items."""
        nodes = self.nodes()
        total = torch.zeros_like(nodes)
        for _ in range(self.config.layers):
            nodes = noisy(self.step(nodes), self.config.noise)
            total = total + nodes
        return self.parted(total / self.config.layers)
