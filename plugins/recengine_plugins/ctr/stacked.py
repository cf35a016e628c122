"""Wukong: factorisation machines on top of each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recengine.contracts.model import DataFacts
from recengine.nn.clicks import ClickModel, Tower
from recengine.nn.features import Features
from recengine_plugins.ctr.config import WukongConfig


class Wukong(ClickModel):
    """L layers, X_{l+1} = LayerNorm([FMB(X_l); LCB(X_l)] + residual), then a tower of what is left.

    LCB(X) = W X makes ``compressed`` vectors out of the features linearly. FMB(X) flattens X (X' Y), the
    pairwise products compressed to ``rank`` columns, and a tower makes ``interacted`` vectors of it. The
    residual is X, brought to the new number of vectors by a matrix where it differs.
    Source: Zhang et al., ICML 2024.
    """

    def __init__(self, config: WukongConfig, facts: DataFacts) -> None:
        super().__init__(config, facts)
        made = config.compressed + config.interacted
        counts = [self.n_features] + [made] * config.layers
        self.layers = nn.ModuleList(WukongLayer(count, config) for count in counts[:-1])
        self.tower = Tower(
            made * config.embedding_dim, config.top, config.dropout, batch_norm=config.batch_norm
        )

    def score(self, vectors: Tensor, features: Features) -> Tensor:
        for layer in self.layers:
            vectors = layer(vectors)
        made: Tensor = self.tower(vectors.flatten(1)).squeeze(1)
        return made


class WukongLayer(nn.Module):
    """[B, count, d] to [B, interacted + compressed, d]."""

    def __init__(self, count: int, config: WukongConfig) -> None:
        super().__init__()
        d, made = config.embedding_dim, config.compressed + config.interacted
        self.interacted = config.interacted
        self.compress = nn.Linear(count, config.compressed, bias=False)
        self.columns = nn.Linear(count, config.rank, bias=False)
        self.norm = nn.LayerNorm(count * config.rank)
        self.tower = Tower(count * config.rank, config.hidden, 0.0, config.interacted * d)
        self.residual = nn.Identity() if count == made else nn.Linear(count, made, bias=False)
        self.out = nn.LayerNorm(d)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.transpose(1, 2)  # [B, d, count]
        pairs = x @ self.columns(wide)  # X (X' Y): [B, count, rank]
        crossed = self.tower(self.norm(pairs.flatten(1))).view(x.shape[0], self.interacted, -1)
        linear = self.compress(wide).transpose(1, 2)
        carried = self.residual(wide).transpose(1, 2)
        made: Tensor = self.out(torch.cat([crossed, linear], 1) + carried)
        return made
