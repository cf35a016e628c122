"""RankMixer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.contracts.model import DataFacts
from recengine.nn.clicks import ClickModel, Logit
from recengine.nn.feature_tokens import ChunkTokens
from recengine.nn.features import Features
from recengine.ops.token_mixing import token_mix
from recengine_plugins.rankmixer.config import RankMixerConfig


class RankMixer(ClickModel):
    """S = LN(Mix(X) + X), X <- LN(FFN_t(S) + S) for each token t; the mean over tokens, then a line.

    Mix puts the h-th parts of all tokens into token h (T heads). FFN_t(s) = W2_t gelu(W1_t s + b1_t) + b2_t.
    Source: arXiv 2507.15551; dense (its sparse experts are left out).
    """

    def __init__(self, config: RankMixerConfig, facts: DataFacts) -> None:
        super().__init__(config, facts)
        tokens, width = config.tokens, config.hidden_dim
        self.tokens = ChunkTokens(self.n_features, config.embedding_dim, tokens, width)
        self.blocks = nn.ModuleList(
            MixerBlock(tokens, width, config.expansion) for _ in range(config.n_blocks)
        )
        self.out = Logit(width, 1)

    def score(self, vectors: Tensor, features: Features) -> Tensor:
        x = self.tokens(vectors)
        for block in self.blocks:
            x = block(x)
        made: Tensor = self.out(x.mean(1)).squeeze(1)
        return made


class MixerBlock(nn.Module):
    """[B, T, D] to [B, T, D], post-norm."""

    def __init__(self, tokens: int, width: int, expansion: int) -> None:
        super().__init__()
        self.count = tokens
        self.mixed, self.out = nn.LayerNorm(width), nn.LayerNorm(width)
        inner = expansion * width
        self.up = nn.Parameter(torch.empty(tokens, width, inner))
        self.up_bias = nn.Parameter(torch.zeros(tokens, 1, inner))
        self.down = nn.Parameter(torch.empty(tokens, inner, width))
        self.down_bias = nn.Parameter(torch.zeros(tokens, 1, width))
        for bank in (self.up, self.down):
            for weight in bank:
                nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor) -> Tensor:
        s = self.mixed(token_mix(x, self.count) + x)
        hidden = functional.gelu(torch.baddbmm(self.up_bias, s.transpose(0, 1), self.up))
        fed = torch.baddbmm(self.down_bias, hidden, self.down).transpose(0, 1)
        made: Tensor = self.out(fed + s)
        return made
