"""A block: two feed-forward halves, mixing before the first, reverting before the second, and the norms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from recengine.ops.token_mixing import mix_prenorm, revert_prenorm, token_mix, token_revert
from recengine_plugins.tokenmixer_large.config import TokenMixerLargeConfig
from recengine_plugins.tokenmixer_large.feeding import feed_forward
from recengine_plugins.tokenmixer_large.norms import EPS, rms


def block_for(tokens: int, config: TokenMixerLargeConfig) -> Block:
    """The block for T tokens whose norms stand where ``config.norm`` says."""
    return BLOCKS[config.norm](tokens, config)


class Mixing:
    """Tokens [B, T, D] to rows of all tokens' parts [B, H, D'], D' = T D / H, and back."""

    def __init__(self, tokens: int, width: int, heads: int) -> None:
        self.tokens, self.rows, self.width = tokens, heads, tokens * width // heads

    def mix(self, x: Tensor) -> Tensor:
        """[B, T, D] to [B, H, D']."""
        return token_mix(x, self.rows)

    def revert(self, mixed: Tensor) -> Tensor:
        """[B, H, D'] to [B, T, D]."""
        return token_revert(mixed, self.tokens)

    def mix_prenorm(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """(RMSNorm(Mix(x)), Mix(x)), in one pass."""
        return mix_prenorm(x, scale, self.rows, eps=EPS)

    def revert_prenorm(self, mixed: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """(RMSNorm(Revert(mixed)), Revert(mixed)), in one pass."""
        return revert_prenorm(mixed, scale, self.tokens, eps=EPS)


class NoMixing:
    """Every token stays by itself: as ``Mixing``, with T rows of width D that are the tokens."""

    def __init__(self, tokens: int, width: int) -> None:
        self.rows, self.width = tokens, width

    def mix(self, x: Tensor) -> Tensor:
        return x

    def revert(self, mixed: Tensor) -> Tensor:
        return mixed

    def mix_prenorm(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        return rms(x, scale), x

    def revert_prenorm(self, mixed: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        return rms(mixed, scale), mixed


class Block(nn.Module):
    """[B, T, D] to [B, T, D] by way of mixed tokens M [B, H, D']: what all places of the norms share.

    ``carry(fed, x, reverted)`` adds to what the second half has fed forward (``config.residual``).
    """

    def __init__(self, tokens: int, config: TokenMixerLargeConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.tokens, self.heads = tokens, config.heads_for(tokens)
        self.mixing: Mixing | NoMixing = (
            Mixing(tokens, width, self.heads) if config.mixing else NoMixing(tokens, width)
        )
        self.carry = CARRIES[config.residual]
        self.mixed_norm = nn.Parameter(torch.ones(self.mixing.width))
        self.reverted_norm = nn.Parameter(torch.ones(width))
        self.mixed = feed_forward(self.mixing.rows, self.mixing.width, config)
        self.reverted = feed_forward(tokens, width, config)

    def first(self, x: Tensor) -> Tensor:
        """M [B, H, D'] of the tokens x [B, T, D]."""
        raise NotImplementedError

    def second(self, mixed: Tensor, x: Tensor) -> Tensor:
        """The tokens behind the block [B, T, D], of M and of those before it."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x), x)


class PreNorm(Block):
    """M = Mix(X);  M <- M + F_mix(RMSNorm(M));  R = Revert(M);  X <- X + F_rev(RMSNorm(R))."""

    def first(self, x: Tensor) -> Tensor:
        normed, mixed = self.mixing.mix_prenorm(x, self.mixed_norm)
        made: Tensor = mixed + self.mixed(normed)
        return made

    def second(self, mixed: Tensor, x: Tensor) -> Tensor:
        normed, reverted = self.mixing.revert_prenorm(mixed, self.reverted_norm)
        return self.carry(self.reverted(normed), x, reverted)


class NormBeforeMix(PreNorm):
    """M = Mix(X) + F_mix(Mix(RMSNorm(X))), the rest as PreNorm: the first norm takes tokens as they come,
    with a scale of D. The norm is a pass of its own, and there are two mixings."""

    def __init__(self, tokens: int, config: TokenMixerLargeConfig) -> None:
        super().__init__(tokens, config)
        self.mixed_norm = nn.Parameter(torch.ones(config.hidden_dim))

    def first(self, x: Tensor) -> Tensor:
        normed = self.mixing.mix(rms(x, self.mixed_norm))
        made: Tensor = self.mixing.mix(x) + self.mixed(normed)
        return made


class PostNorm(Block):
    """M = Mix(X);  M <- RMSNorm(F_mix(M) + M);  R = Revert(M);  X <- RMSNorm(F_rev(R) + X)."""

    def first(self, x: Tensor) -> Tensor:
        mixed = self.mixing.mix(x)
        return rms(self.mixed(mixed) + mixed, self.mixed_norm)

    def second(self, mixed: Tensor, x: Tensor) -> Tensor:
        reverted = self.mixing.revert(mixed)
        return rms(self.carry(self.reverted(reverted), x, reverted), self.reverted_norm)


def add_input(fed: Tensor, x: Tensor, reverted: Tensor) -> Tensor:
    """fed + X"""
    return fed + x


def add_reverted(fed: Tensor, x: Tensor, reverted: Tensor) -> Tensor:
    """fed + R: the first half reaches the tokens behind the block by itself, too."""
    return fed + reverted


def add_nothing(fed: Tensor, x: Tensor, reverted: Tensor) -> Tensor:
    """fed"""
    return fed


BLOCKS: dict[str, type[Block]] = {"pre": PreNorm, "before_mix": NormBeforeMix, "post": PostNorm}
CARRIES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "input": add_input,
    "reverted": add_reverted,
    "none": add_nothing,
}
