"""How many weights and operations the blocks have: the formulas that the tests hold the model to.

Dense, T tokens of width D, H heads, D' = T D / H, expansion n, L blocks:

    weights  3 n T D^2 (1 + T / H) L  +  (D + D') L  (scales of the norms)
    FLOPs    2 a row and weight of the SwiGLUs

Sparse, E experts of which k are at work: the same weights and the routers T D R + H D' R a block, R the
routed experts (E - 1 with a shared one); FLOPs of the SwiGLUs times k / E, and 2 a weight of the routers.
"""

from __future__ import annotations

from dataclasses import dataclass

from recengine_plugins.tokenmixer_large.config import TokenMixerLargeConfig


@dataclass(frozen=True)
class Count:
    """experts: weights of the SwiGLUs. active: those that one row meets. routers, norms: the others. All over
    the blocks; flops: of one row forward, norms not counted."""

    experts: int
    active: float
    routers: int
    norms: int

    @property
    def weights(self) -> int:
        """All weights of the blocks."""
        return self.experts + self.routers + self.norms

    @property
    def flops(self) -> float:
        """Of one row forward: two for each weight that it meets."""
        return 2 * (self.active + self.routers)


def blocks(config: TokenMixerLargeConfig, tokens: int) -> Count:
    """The blocks for T tokens, per-token SwiGLU with mixing."""
    heads, width, n = config.heads_for(tokens), config.hidden_dim, config.expansion
    mixed = tokens * width // heads
    experts = 3 * n * (tokens * width**2 + heads * mixed**2) * config.n_blocks
    sparse = config.experts > 1
    routed = config.experts - config.shared_expert if sparse else 0
    routers = 2 * tokens * width * routed * config.n_blocks
    share = config.active / config.experts if sparse else 1.0
    return Count(experts, experts * share, routers, (width + mixed) * config.n_blocks)
