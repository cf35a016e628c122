"""GRU4Rec on packed sequences."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from recengine.contracts.model import DataFacts
from recengine.nn.dropout import Dropout
from recengine.nn.initialising import truncated_normal
from recengine.nn.ragged import Layout, layout
from recengine.nn.recommender import AppendingRecommender
from recengine.nn.sequence_encoder import ItemInput
from recengine_plugins.gru4rec.config import GRU4RecConfig


class GRU4Rec(AppendingRecommender):
    """g_t = GRU(g_{t-1}, e(i_t)), h_t = W g_t, score of item i after t = <h_t, e_i> + b_i.

    The item table e is both input and output (tied). Every position of a sequence is trained to predict the
    item after it. Takes events one at a time: the state g is all that is kept.
    Source: Hidasi et al., "Session-based recommendations with recurrent neural networks", ICLR 2016.
    """

    def __init__(self, config: GRU4RecConfig, facts: DataFacts) -> None:
        super().__init__(Recurrent(config, facts.n_items), config.max_length, bias=config.item_bias)
        self.config = config
        self.apply(partial(truncated_normal, std=config.init_std))


class Recurrent(nn.Module):
    """Item vectors, the recurrent layers, and a linear layer back to the width of the item vectors."""

    def __init__(self, config: GRU4RecConfig, n_items: int) -> None:
        super().__init__()
        dim, state = config.hidden_dim, config.state_dim
        self.given = ItemInput(n_items, dim, config.max_length, config.dropout, "none", masked=False)
        between = config.dropout if config.n_layers > 1 else 0.0
        self.layers = nn.GRU(dim, state, config.n_layers, dropout=between)
        self.dropout = Dropout(config.dropout)
        self.out = nn.Linear(state, dim)

    @property
    def items(self) -> nn.Embedding:
        """The item table."""
        return self.given.items

    def states(self, items: Tensor, offsets: Tensor, times: Tensor | None = None) -> Tensor:
        """float [T, d]."""
        out: Tensor = self.out(self.dropout(self._recurrent(items, layout(offsets))[0]))
        return out

    def at(self, items: Tensor, offsets: Tensor, wanted: Tensor, times: Tensor | None = None) -> Tensor:
        """float [R, d]."""
        rows = self._recurrent(items, layout(offsets))[0].index_select(0, wanted)
        out: Tensor = self.out(self.dropout(rows))
        return out

    def empty_state(self, count: int) -> dict[str, Tensor]:
        """{'state': float [count, layers, state_dim]}, zero."""
        shape = (count, self.layers.num_layers, self.layers.hidden_size)
        return {"state": self.out.weight.new_zeros(shape)}

    def append(self, state: dict[str, Tensor], items: Tensor) -> Tensor:
        """float [B, d] after one more event a sequence, int64 [B]; ``state`` takes the events in."""
        rows = self.given.next(items, torch.ones_like(items))
        rows, after = self.layers(rows[None], state["state"].transpose(0, 1).contiguous())
        state["state"].copy_(after.transpose(0, 1))
        out: Tensor = self.out(self.dropout(rows[0]))
        return out

    def read(self, items: Tensor, offsets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The state behind whole packed sequences, and float [B, d] after each."""
        place = layout(offsets)
        rows, state = self._recurrent(items, place)
        out: Tensor = self.out(self.dropout(rows.index_select(0, place.ends)))
        return {"state": state}, out

    def _recurrent(self, items: Tensor, place: Layout) -> tuple[Tensor, Tensor]:
        """float [T, state_dim] and the last states [B, layers, state_dim]: all first events at once, then all
        second ones, longest sequences first."""
        order = torch.argsort(place.lengths, descending=True, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(place.sequences, device=order.device)
        by_time = torch.argsort(place.position * place.sequences + rank[place.sequence])
        sizes = torch.bincount(place.position, minlength=place.length).cpu()
        rows, last = self.layers(PackedSequence(self.given(items, place).index_select(0, by_time), sizes))
        back = torch.empty_like(by_time)
        back[by_time] = torch.arange(by_time.numel(), device=by_time.device)
        return rows.data.index_select(0, back), last.transpose(0, 1).index_select(0, rank)
