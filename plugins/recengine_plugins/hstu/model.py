"""HSTU on packed sequences."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.contracts.model import DataFacts
from recengine.nn.dropout import Dropout
from recengine.nn.initialising import truncated_normal
from recengine.nn.linear import Linear
from recengine.nn.ragged import Layout, gather, layout, spread
from recengine.nn.recommender import SequenceRecommender
from recengine.nn.sequence_encoder import ItemInput
from recengine.ops import gated_attention, packed_kernel_takes
from recengine_plugins.hstu.config import HSTUConfig

BUCKETS = 64  # of log2(1 + time): all that int64 can hold


class HSTU(SequenceRecommender):
    """score of item i after t = <h_t, e_i>, h from blocks of gated attention without softmax:

        U, V, Q, K = silu(W1 LN(x)),   A_ij = silu(q_i . k_j + b(i - j) + b'(t_i - t_j)) / N   (j <= i)
        x <- x + W2 dropout(LN(A V) * U)

    N is the longest sequence the model sees, b and b' learned. Every position is trained to predict the item
    after it; inference computes the last block at the last position only.
    Source: Zhai et al., "Actions speak louder than words", ICML 2024.
    """

    def __init__(self, config: HSTUConfig, facts: DataFacts) -> None:
        super().__init__(GatedEncoder(config, facts.n_items), config.max_length)
        self.config = config
        self.apply(partial(truncated_normal, std=config.init_std))


class GatedEncoder(nn.Module):
    """Item vectors and positions, gated blocks, a final norm."""

    def __init__(self, config: HSTUConfig, n_items: int) -> None:
        super().__init__()
        dim, length = config.hidden_dim, config.max_length
        self.given = ItemInput(n_items, dim, length, config.dropout, "recent", masked=False)
        self.blocks = nn.ModuleList(
            GatedBlock(dim, config.n_heads, length, config.dropout, config.times)
            for _ in range(config.n_blocks)
        )
        self.norm = nn.LayerNorm(dim)

    @property
    def items(self) -> nn.Embedding:
        """The item table."""
        return self.given.items

    def states(self, items: Tensor, offsets: Tensor, times: Tensor | None = None) -> Tensor:
        """float [T, d]."""
        every = torch.arange(items.shape[0], device=items.device)
        return self.at(items, offsets, every, times)

    def at(self, items: Tensor, offsets: Tensor, wanted: Tensor, times: Tensor | None = None) -> Tensor:
        """float [R, d]."""
        place = layout(offsets)
        every = torch.arange(items.shape[0], device=items.device)
        rows = self.given(items, place)
        for index, block in enumerate(self.blocks):
            rows = block(rows, place, every if index + 1 < len(self.blocks) else wanted, times)
        out: Tensor = self.norm(rows)
        return out


class GatedBlock(nn.Module):
    """One HSTU layer (formula: HSTU). Its biases are shared by the heads and start at zero."""

    def __init__(self, dim: int, heads: int, length: int, dropout: float, times: bool) -> None:
        super().__init__()
        self.heads, self.length = heads, length
        self.norm_in = nn.LayerNorm(dim)
        self.project_asking = Linear(dim, 2 * dim)  # U, Q
        self.project_asked = Linear(dim, 2 * dim)  # V, K
        self.by_distance = nn.Parameter(torch.zeros(length))
        self.by_time = nn.Parameter(torch.zeros(BUCKETS)) if times else None
        self.norm_out = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.project_out = Linear(dim, dim)

    def forward(self, rows: Tensor, place: Layout, wanted: Tensor, times: Tensor | None) -> Tensor:
        """The output [R, d] at the rows ``wanted`` (int64 [R], ascending); rows [T, d], times int64 [T]."""
        normed = self.norm_in(rows)
        gate, query = functional.silu(self.project_asking(normed.index_select(0, wanted))).chunk(2, 1)
        value, key = functional.silu(self.project_asked(normed)).chunk(2, 1)
        query, key, value = (x.view(x.shape[0], self.heads, -1) for x in (query, key, value))
        known = None if self.by_time is None else times
        if packed_kernel_takes(query):
            mixed = gated_attention(
                query,
                key,
                value,
                wanted,
                cu_seqlens=place.offsets,
                by_distance=self.by_distance,
                times=known,
                by_time=None if known is None else self.by_time,
                share=1 / self.length,
            )
        else:
            mixed = self._on_a_grid(query, key, value, place, wanted, known)
        out = self.project_out(self.dropout(self.norm_out(mixed.flatten(1)) * gate))
        return rows.index_select(0, wanted) + out

    def _on_a_grid(
        self, query: Tensor, key: Tensor, value: Tensor, place: Layout, wanted: Tensor, times: Tensor | None
    ) -> Tensor:
        """The mixed values [R, H, d_h] by way of the grid [B, longest]: where there is no kernel."""
        asked = place.of(wanted)
        queries, keys, values = (
            spread(x, at).transpose(1, 2) for x, at in ((query, asked), (key, place), (value, place))
        )
        scores = queries @ keys.transpose(2, 3) + self._bias(place, asked, wanted, times)[:, None]
        weights = functional.silu(scores) * self._past(place, asked, wanted)[:, None] / self.length
        return gather((weights @ values).transpose(1, 2), asked)

    def _past(self, place: Layout, asked: Layout, wanted: Tensor) -> Tensor:
        """bool [B, Q, L], whether the query sees the cell."""
        return self._distance(place, asked, wanted) >= 0

    def _distance(self, place: Layout, asked: Layout, wanted: Tensor) -> Tensor:
        """int64 [B, Q, L], events from the cell to the query."""
        steps = torch.arange(place.length, device=wanted.device)
        return spread_whole(place.position[wanted], asked)[..., None] - steps

    def _bias(self, place: Layout, asked: Layout, wanted: Tensor, times: Tensor | None) -> Tensor:
        """float [B, Q, L]."""
        bias = functional.embedding(
            self._distance(place, asked, wanted).clamp(min=0), self.by_distance[:, None]
        )
        if self.by_time is not None and times is not None:
            gap = spread_whole(times[wanted], asked)[..., None] - spread_whole(times, place)[:, None]
            bucket = torch.log2(1 + gap.clamp(min=0).double()).long()
            bias = bias + functional.embedding(bucket, self.by_time[:, None])
        return bias[..., 0]


def spread_whole(values: Tensor, place: Layout) -> Tensor:
    """int64 [T] into the grid [B, length]; free cells repeat a row."""
    return values.index_select(0, place.row).view(place.sequences, place.length)
