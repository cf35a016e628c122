"""SASRec on packed sequences."""

from __future__ import annotations

from functools import partial

from torch import nn

from recengine.contracts.model import DataFacts
from recengine.nn.initialising import truncated_normal
from recengine.nn.recommender import SequenceRecommender
from recengine.nn.sequence_encoder import BlockEncoder, ItemInput
from recengine.nn.transformer import CausalBlock
from recengine_plugins.sasrec.config import SASRecConfig


class SASRec(SequenceRecommender):
    """h_t = Transformer(item vectors + positions up to t); score of item i after t = <h_t, e_i>.

    The item table e is both input and output (tied). Every position of a sequence is trained to predict the
    item after it. Inference computes the last block at the last position only.
    Source: Kang and McAuley, "Self-attentive sequential recommendation", ICDM 2018.
    """

    def __init__(self, config: SASRecConfig, facts: DataFacts) -> None:
        dim, dropout = config.hidden_dim, config.dropout
        given = ItemInput(facts.n_items, dim, config.max_length, dropout, config.positions, masked=False)
        blocks = [
            CausalBlock(dim, config.n_heads, config.inner_factor * dim, dropout, config.activation)
            for _ in range(config.n_blocks)
        ]
        super().__init__(BlockEncoder(given, blocks, nn.LayerNorm(dim)), config.max_length)
        self.config = config
        self.apply(partial(truncated_normal, std=config.init_std))
