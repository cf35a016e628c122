"""How many weights and operations the blocks have: the formulas that the tests hold the model to.

Dense, T tokens of width D, H heads, D' = T D / H, expansion n, L blocks:

    weights  3 n T D^2 (1 + T / H) L  +  (D + D') L  (scales of the norms)
    FLOPs    2 a row and weight of the SwiGLUs

Sparse, E experts of which k are at work: the same weights and the routers T D R + H D' R a block, R the
routed experts (E - 1 with a shared one); FLOPs of the SwiGLUs times k / E, and 2 a weight of the routers.
``shared_extra``: R = E, weights of the SwiGLUs times (E + 1) / E, FLOPs times (k + 1) / E of the dense ones.
``router = "shared"``: routers of D R + D' R a block, at as many FLOPs.

Without mixing H = T and D' = D. ``norm = "before_mix"``: scales of 2 D a block. ``ffn = "shared_swiglu"``:
3 n (D^2 + D'^2) L weights, each met once a token. ``ffn = "ffn"``: 2 instead of 3 matrices, inside 3 / 2 as
wide (rounded down).
"""

from __future__ import annotations

from dataclasses import dataclass

from recengine_plugins.tokenmixer_large.config import TokenMixerLargeConfig


@dataclass(frozen=True)
class Count:
    """experts, routers, norms: weights of the feed-forward parts, of what chooses experts, of the norms.
    active, routing: multiplications by the first two that one row needs. All over the blocks; flops: of one
    row forward, norms not counted."""

    experts: int
    active: int
    routers: int
    routing: int
    norms: int

    @property
    def weights(self) -> int:
        """All weights of the blocks."""
        return self.experts + self.routers + self.norms

    @property
    def flops(self) -> int:
        """Of one row forward: two for each multiplication by a weight."""
        return 2 * (self.active + self.routing)


def blocks(config: TokenMixerLargeConfig, tokens: int) -> Count:
    """The blocks for T tokens."""
    width, heads = config.hidden_dim, config.heads_for(tokens)
    rows, mixed = (heads, tokens * width // heads) if config.mixing else (tokens, width)
    halves = (half(rows, mixed, config), half(tokens, width, config))
    sums = (config.n_blocks * sum(both) for both in zip(*halves, strict=True))
    first = width if config.norm == "before_mix" else mixed
    return Count(*sums, (first + width) * config.n_blocks)


def half(rows: int, width: int, config: TokenMixerLargeConfig) -> tuple[int, int, int, int]:
    """Of a feed-forward part for ``rows`` tokens of ``width``: weights, multiplications by them, weights of
    its routers, multiplications by those."""
    inner = config.expansion * width
    if config.ffn == "ffn":
        weights = rows * 2 * width * (3 * inner // 2)
        return weights, weights, 0, 0
    swiglu = 3 * width * inner
    if config.ffn == "shared_swiglu":
        return swiglu, rows * swiglu, 0, 0
    if config.experts == 1:
        return rows * swiglu, rows * swiglu, 0, 0
    expert = rows * swiglu // config.experts
    extra = int(config.shared_extra)
    router = width * config.routed
    routers = 1 if config.router == "shared" else rows
    weights, met = (config.experts + extra) * expert, (config.active + extra) * expert
    return weights, met, routers * router, rows * router
