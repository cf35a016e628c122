"""Cotten4Rec on packed sequences."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from recengine.contracts.model import DataFacts
from recengine.data import Masking
from recengine.nn.cosine_attention import CosineAttention
from recengine.nn.dropout import Dropout
from recengine.nn.initialising import truncated_normal
from recengine.nn.norm import StdNorm
from recengine.nn.recommender import AppendingRecommender
from recengine.nn.sequence_encoder import BlockEncoder, ItemInput
from recengine.nn.transformer import Block
from recengine_plugins.cotten4rec.config import Cotten4RecConfig


class Cotten4Rec(AppendingRecommender):
    """score of item i at a hidden event = <h, e_i> + b_i, h from blocks whose attention is

        O_i = n^-sigma(m) q_i . (sum_j k_j v_j^T),  |q_i| = |k_j| = 1

    over the events of the sequence: linear in their number, no softmax. Bidirectional over hidden events by
    default; causal, it predicts the next event and takes events one at a time.
    Source: "Cotten4Rec", arXiv 2602.06935; Mongaras et al., "Cottention", 2024.
    """

    def __init__(self, config: Cotten4RecConfig, facts: DataFacts) -> None:
        dim, masked = config.hidden_dim, config.objective == "masked"
        given = ItemInput(facts.n_items, dim, config.max_length, config.dropout, config.positions, masked)
        norm: Callable[[int], nn.Module] = nn.LayerNorm if config.norm == "layer" else StdNorm
        blocks = [_block(config, norm) for _ in range(config.n_blocks)]
        super().__init__(
            BlockEncoder(given, blocks, norm(dim) if config.final_norm else nn.Identity()),
            config.max_length,
            masking=Masking(config.mask_share, config.last_share) if masked else None,
            tied=config.tied,
            bias=config.item_bias,
        )
        self.config = config
        self.apply(partial(truncated_normal, std=config.init_std))
        for block in blocks:  # rows come normalised, so a query's own part has init_std sqrt(dim) a component
            block.attention.begin_even(config.even_start * config.init_std * dim**0.5)


def _block(config: Cotten4RecConfig, norm: Callable[[int], nn.Module]) -> Block:
    dim = config.hidden_dim
    attention = CosineAttention(
        dim,
        config.n_heads,
        causal=config.direction == "causal",
        scale=config.scale,
        project_out=config.out_projection,
    )
    return Block(
        attention,
        dim,
        config.inner_factor * dim,
        config.dropout,
        config.activation,
        norm=norm,
        closing=Dropout(config.dropout) if config.closing_dropout else None,
    )
