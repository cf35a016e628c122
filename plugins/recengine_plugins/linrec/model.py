"""LinRec on packed sequences."""

from __future__ import annotations

from functools import partial

from torch import nn

from recengine.contracts.model import DataFacts
from recengine.data import Masking
from recengine.nn.cosine_attention import CosineAttention
from recengine.nn.initialising import truncated_normal
from recengine.nn.recommender import AppendingRecommender
from recengine.nn.sequence_encoder import BlockEncoder, ItemInput
from recengine.nn.transformer import Block
from recengine_plugins.linrec.config import LinRecConfig


class LinRec(AppendingRecommender):
    """score of item i at a hidden event = <h, e_i> + b_i, h from blocks whose attention is (d: head width)

        O_i = 1 / sqrt(d) q_i . (sum_j k_j v_j^T),  q_i = elu(Q_i) / |elu(Q_i)|,  k_j = elu(K_j) / |elu(K_j)|

    Linear in the number of events, no softmax. Source: Liu et al., "LinRec", SIGIR 2023.
    """

    def __init__(self, config: LinRecConfig, facts: DataFacts) -> None:
        dim, masked = config.hidden_dim, config.objective == "masked"
        given = ItemInput(facts.n_items, dim, config.max_length, config.dropout, config.positions, masked)
        causal, inner = config.direction == "causal", config.inner_factor * dim
        blocks = [
            Block(
                CosineAttention(dim, config.n_heads, causal=causal, activation="elu", scale="sqrt_d"),
                dim,
                inner,
                config.dropout,
                config.activation,
            )
            for _ in range(config.n_blocks)
        ]
        super().__init__(
            BlockEncoder(given, blocks, nn.LayerNorm(dim)),
            config.max_length,
            masking=Masking(config.mask_share, config.last_share) if masked else None,
            bias=config.item_bias,
        )
        self.config = config
        self.apply(partial(truncated_normal, std=config.init_std))
