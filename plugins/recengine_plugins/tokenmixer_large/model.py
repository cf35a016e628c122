"""TokenMixer-Large: tokens, blocks, depth aids, towers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recengine.contracts.batch import FeatureBatch, PairBatch, SequenceBatch, StepContext
from recengine.contracts.model import DataFacts
from recengine.nn.clicks import ClickModel, Tower, click_rows, weighted_loss
from recengine.nn.feature_tokens import GroupTokens, token_groups
from recengine.nn.features import Features
from recengine.ops.token_mixing import mix_prenorm, revert_prenorm, token_mix, token_revert
from recengine_plugins.tokenmixer_large.config import TokenMixerLargeConfig
from recengine_plugins.tokenmixer_large.feeding import feed_forward

EPS = 1e-6


class TokenMixerLarge(ClickModel):
    """Tokens X = [everything; group 1; ...], L blocks, RMSNorm, the mean over tokens, a tower.

    Every ``skip`` blocks, but not behind the last, the output of the block ``skip`` before (at first the
    tokens) is added (or averaged: ``skip_join``), and a tower of that place gives an intermediate logit; the
    loss is BCE(y, z) + auxiliary x the sum of BCE(y, z_l). Source: arXiv 2602.06563; see MODEL_CARD.md for
    what it leaves open and what was decided.
    """

    config: TokenMixerLargeConfig

    def __init__(self, config: TokenMixerLargeConfig, facts: DataFacts) -> None:
        super().__init__(config, facts)
        wanted = max(0, config.tokens - config.global_token)
        groups = token_groups(self.facts, wanted)
        width = config.hidden_dim
        self.tokens = GroupTokens(groups, config.embedding_dim, width, whole=config.global_token)
        count = self.tokens.tokens
        self.blocks = nn.ModuleList(Block(count, config) for _ in range(config.n_blocks))
        self.norm = nn.Parameter(torch.ones(width))
        self.tower = Tower(width, (width,))
        self.joints = joints(config.n_blocks, config.skip)
        wanted_towers = self.joints if config.auxiliary > 0 else ()
        self.auxiliary = nn.ModuleDict({str(at): Tower(width, ()) for at in wanted_towers})

    def states(self, vectors: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """The last tokens [B, T, D], and those behind each joint by the number of its block."""
        x = self.tokens(vectors)
        kept, between = {0: x}, {}
        for at, block in enumerate(self.blocks, start=1):
            x = block(x)
            if at in self.joints:
                x = x + kept[at - self.config.skip]
                x = 0.5 * x if self.config.skip_join == "mean" else x
                between[at] = x
            kept[at] = x
        return x, between

    def score(self, vectors: Tensor, features: Features) -> Tensor:
        return self._read(self.tower, self.states(vectors)[0])

    def training_loss(self, batch: SequenceBatch | PairBatch | FeatureBatch, context: StepContext) -> Tensor:
        rows = click_rows(batch)
        vectors = self.vectors(rows.features)
        last, between = self.states(vectors)
        loss = weighted_loss(self._read(self.tower, last) + self.bias, rows) + self.penalty(vectors)
        for at, tower in self.auxiliary.items():
            logits = self._read(tower, between[int(at)]) + self.bias
            loss = loss + self.config.auxiliary * weighted_loss(logits, rows)
        return loss

    def _read(self, tower: nn.Module, x: Tensor) -> Tensor:
        made: Tensor = tower(pooled_rms(x, self.norm)).squeeze(1)
        return made


def joints(blocks: int, skip: int) -> tuple[int, ...]:
    """Blocks (from 1) behind which a residual from ``skip`` blocks before is added: never the last."""
    return tuple(range(skip, blocks, skip)) if skip else ()


class Block(nn.Module):
    """[B, T, D] to [B, T, D]. Pre-norm, with D' = T D / H:

    M = Mix(X)                 [B, H, D']
    M <- M + F_mix(RMSNorm(M))
    R = Revert(M)              [B, T, D]
    X <- X + F_rev(RMSNorm(R))
    """

    def __init__(self, tokens: int, config: TokenMixerLargeConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.tokens, self.heads = tokens, config.heads_for(tokens)
        self.mixing, self.post, self.residual = config.mixing, config.norm == "post", config.residual
        rows, mixed = (self.heads, tokens * width // self.heads) if self.mixing else (tokens, width)
        self.mixed_norm = nn.Parameter(torch.ones(mixed))
        self.reverted_norm = nn.Parameter(torch.ones(width))
        self.mixed = feed_forward(rows, mixed, config)
        self.reverted = feed_forward(tokens, width, config)

    def forward(self, x: Tensor) -> Tensor:
        if self.post:
            return self._post(x)
        normed, mixed = self._mix(x)
        mixed = mixed + self.mixed(normed)
        normed, reverted = self._revert(mixed)
        fed: Tensor = self.reverted(normed)
        return self._carry(fed, x, reverted)

    def _post(self, x: Tensor) -> Tensor:
        mixed = token_mix(x, self.heads) if self.mixing else x
        mixed = rms(self.mixed(mixed) + mixed, self.mixed_norm)
        reverted = token_revert(mixed, self.tokens) if self.mixing else mixed
        return rms(self._carry(self.reverted(reverted), x, reverted), self.reverted_norm)

    def _mix(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.mixing:
            return mix_prenorm(x, self.mixed_norm, self.heads, eps=EPS)
        return rms(x, self.mixed_norm), x

    def _revert(self, mixed: Tensor) -> tuple[Tensor, Tensor]:
        if self.mixing:
            return revert_prenorm(mixed, self.reverted_norm, self.tokens, eps=EPS)
        return rms(mixed, self.reverted_norm), mixed

    def _carry(self, fed: Tensor, x: Tensor, reverted: Tensor) -> Tensor:
        if self.residual == "none":
            return fed
        return fed + (x if self.residual == "input" else reverted)


def rms(x: Tensor, scale: Tensor) -> Tensor:
    """scale * x / sqrt(mean(x^2) + EPS), the mean over the last dimension in float32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS) * scale).to(x.dtype)


def pooled_rms(x: Tensor, scale: Tensor) -> Tensor:
    """The mean over the tokens of ``rms(x, scale)``, [B, T, D] to [B, D].

    A product of one row with each sample's tokens, so that no normed copy of all tokens is made.
    """
    with torch.autocast(x.device.type, enabled=False):
        wide = x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1)
        share = torch.rsqrt(norm.square() / x.shape[2] + EPS) / x.shape[1]
        return (torch.bmm(share.unsqueeze(1), wide).squeeze(1) * scale).to(x.dtype)
