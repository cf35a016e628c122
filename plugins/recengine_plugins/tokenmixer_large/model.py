"""TokenMixer-Large: tokens, blocks, depth aids, towers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from recengine.contracts.batch import FeatureBatch, PairBatch, SequenceBatch, StepContext
from recengine.contracts.model import DataFacts
from recengine.nn.clicks import ClickModel, Tower, click_rows, weighted_loss
from recengine.nn.feature_tokens import GroupTokens, token_groups
from recengine.nn.features import Features
from recengine_plugins.tokenmixer_large.block import block_for
from recengine_plugins.tokenmixer_large.config import TokenMixerLargeConfig
from recengine_plugins.tokenmixer_large.feeding import SparseSwiGLU
from recengine_plugins.tokenmixer_large.norms import pooled_rms


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
        groups = token_groups(self.facts, wanted, whole=config.global_token)
        width = config.hidden_dim
        self.tokens = GroupTokens(groups, config.embedding_dim, width, whole=config.global_token)
        count = self.tokens.tokens
        self.blocks = nn.ModuleList(block_for(count, config) for _ in range(config.n_blocks))
        self.norm = nn.Parameter(torch.ones(width))
        self.tower = Tower(width, (width,))
        self.joints = joints(config.n_blocks, config.skip)
        self.join = JOINS[config.skip_join]
        wanted_towers = self.joints if config.auxiliary > 0 else ()
        self.auxiliary = nn.ModuleDict({str(at): Tower(width, ()) for at in wanted_towers})

    def states(self, vectors: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """The last tokens [B, T, D], and those behind each joint by the number of its block."""
        x = before = self.tokens(vectors)
        between: dict[int, Tensor] = {}
        for at, block in enumerate(self.blocks, start=1):
            x = block(x)
            if at in self.joints:
                x = before = between[at] = self.join(x, before)
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

    @torch.no_grad()
    def expert_load(self, features: Features) -> dict[str, Tensor]:
        """Rows that each expert gets, int64 [tokens or heads, routed experts], by the half blocks' names
        ("blocks.0.mixed", "blocks.0.reverted", ...); nothing of a dense model. A row counts once for every
        expert that it is sent to, and shared experts, which get all rows, are not listed."""
        found: dict[str, Tensor] = {}
        parts = [(name, part) for name, part in self.named_modules() if isinstance(part, SparseSwiGLU)]
        hooks = [part.register_forward_pre_hook(partial(_keep_load, found, name)) for name, part in parts]
        try:
            self.states(self.vectors(features))
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def _read(self, tower: nn.Module, x: Tensor) -> Tensor:
        made: Tensor = tower(pooled_rms(x, self.norm)).squeeze(1)
        return made


def _keep_load(found: dict[str, Tensor], name: str, part: SparseSwiGLU, given: tuple[Tensor]) -> None:
    found[name] = part.load(*given)


def joints(blocks: int, skip: int) -> tuple[int, ...]:
    """Blocks (from 1) behind which a residual from ``skip`` blocks before is added: never the last."""
    return tuple(range(skip, blocks, skip)) if skip else ()


def half_sum(one: Tensor, other: Tensor) -> Tensor:
    """(one + other) / 2"""
    return 0.5 * (one + other)


JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"add": torch.add, "mean": half_sum}
