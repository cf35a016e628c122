"""AutoInt: self-attention between features."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional

from recengine.contracts.model import DataFacts
from recengine.nn.clicks import ClickModel, Logit
from recengine.nn.features import Features
from recengine_plugins.ctr.config import AutoIntConfig


class AutoInt(ClickModel):
    """L layers x <- relu(Attention(x) + W x) over the vectors of the features, then one linear output.

    Heads of softmax attention with scale 1 / sqrt(width of a head). Source: Song et al., CIKM 2019 (which
    leaves the scale out).
    """

    def __init__(self, config: AutoIntConfig, facts: DataFacts) -> None:
        super().__init__(config, facts)
        widths = [config.embedding_dim] + [config.attention_dim] * config.layers
        self.layers = nn.ModuleList(
            FieldAttention(a, b, config.n_heads) for a, b in itertools.pairwise(widths)
        )
        self.out = Logit(self.n_features * config.attention_dim, 1)

    def score(self, vectors: Tensor, features: Features) -> Tensor:
        for layer in self.layers:
            vectors = layer(vectors)
        made: Tensor = self.out(vectors.flatten(1)).squeeze(1)
        return made


class FieldAttention(nn.Module):
    """relu(softmax(Q K' / sqrt(d)) V + W x), [B, F, width] to [B, F, dim]."""

    def __init__(self, width: int, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * dim, bias=False)
        self.residual = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, fields, _ = x.shape
        parts = self.project(x).view(rows, fields, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts.unbind(0))
        return functional.relu(mixed.transpose(1, 2).flatten(2) + self.residual(x))
