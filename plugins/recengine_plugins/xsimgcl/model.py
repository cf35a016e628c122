"""XSimGCL on the engine's sparse propagation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from recengine.contracts.batch import PairBatch, StepContext
from recengine.contracts.model import DataFacts
from recengine.nn.graph import GraphPairModel, noisy
from recengine.nn.unit import unit_rows
from recengine.ops import info_nce
from recengine_plugins.xsimgcl.config import XSimGCLConfig


class XSimGCL(GraphPairModel):
    """One pass for both tasks: [x; y] = mean over k = 1 .. K of the layers, with noise in training.

    In training every layer gets a random vector of length ``noise`` in each node's own orthant; the ranking
    loss is on the read-out, which is contrasted by InfoNCE with layer ``contrast_layer``, over the distinct
    users and items of the batch. Answers are without noise.
    Source: Yu et al., "XSimGCL: towards extremely simple graph contrastive learning for recommendation",
    TKDE 2024.
    """

    def __init__(self, config: XSimGCLConfig, facts: DataFacts) -> None:
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
        self.forget_answers()
        (users, items), early = self._pass()
        loss = self.ranking_loss(users, items, batch, context) + self.pull(batch)
        if not self.config.contrast:
            return loss
        total = loss.new_zeros(())
        for late, first, ids in zip((users, items), early, (batch.users, batch.items), strict=True):
            rows = torch.unique(ids)
            views = [unit_rows(functional.embedding(rows, table)) for table in (late, first)]
            total = total + info_nce(*views, temperature=self.config.contrast_temperature)
        return loss + self.config.contrast * total

    def _pass(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Read-out, and the contrasted layer, as users and items."""
        nodes = self.nodes()
        total, early = torch.zeros_like(nodes), nodes
        for layer in range(1, self.config.layers + 1):
            nodes = noisy(self.step(nodes), self.config.noise)
            total = total + nodes
            if layer == self.config.contrast_layer:
                early = nodes
        return self.parted(total / self.config.layers), self.parted(early)
