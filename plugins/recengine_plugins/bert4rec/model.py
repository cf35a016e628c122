"""BERT4Rec on packed sequences."""

from __future__ import annotations

from functools import partial

from torch import nn

from recengine.contracts.model import DataFacts
from recengine.data import Masking
from recengine.nn.initialising import truncated_normal
from recengine.nn.recommender import SequenceRecommender
from recengine.nn.sequence_encoder import BlockEncoder, ItemInput
from recengine.nn.transformer import BidirectionalBlock
from recengine_plugins.bert4rec.config import BERT4RecConfig


class BERT4Rec(SequenceRecommender):
    """score of item i at a hidden event = <h, e_i> + b_i, h from a Transformer that sees both sides of it.

    The item table e is both input and output (tied). Training hides events at random; an answer is asked for
    by one hidden event behind the history. Only hidden events pass the last block's feed-forward layer and
    the output.
    Source: Sun et al., "BERT4Rec", CIKM 2019.
    """

    def __init__(self, config: BERT4RecConfig, facts: DataFacts) -> None:
        dim, dropout = config.hidden_dim, config.dropout
        given = ItemInput(facts.n_items, dim, config.max_length, dropout, "recent", masked=True)
        blocks = [
            BidirectionalBlock(dim, config.n_heads, config.inner_factor * dim, dropout, config.activation)
            for _ in range(config.n_blocks)
        ]
        super().__init__(
            BlockEncoder(given, blocks, nn.LayerNorm(dim)),
            config.max_length,
            masking=Masking(config.mask_share, config.last_share),
            bias=config.item_bias,
        )
        self.config = config
        self.apply(partial(truncated_normal, std=config.init_std))
