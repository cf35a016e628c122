"""Causal self-attention over packed sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.nn.ragged import Layout, gather, spread


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and what came before it in its own sequence.

    softmax(Q K^T / sqrt(d_h) + causal) V, heads concatenated, then an output projection. Projections run on
    the packed rows [T, d]; only the scores are made on the grid [B, longest].
    Source: Vaswani et al., "Attention is all you need", 2017.

    dim must be a multiple of heads (ValueError otherwise).
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
        self.heads = heads
        self.project_in = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)

    def forward(self, rows: Tensor, place: Layout) -> Tensor:
        """rows [T, d] -> [T, d]."""
        out: Tensor = self.project_out(self._mix(self.project_in(rows), place))
        return out

    def last(self, rows: Tensor, place: Layout, ends: Tensor) -> Tensor:
        """The output [B, d] at the last position of each sequence only; ends int64 [B], their rows."""
        dim = rows.shape[1]
        query = functional.linear(rows[ends], self.project_in.weight[:dim], self.project_in.bias[:dim])
        keys = functional.linear(rows, self.project_in.weight[dim:], self.project_in.bias[dim:])
        grid = spread(keys, place).view(place.sequences, place.length, 2, self.heads, -1)
        key, value = grid.permute(2, 0, 3, 1, 4)
        steps = torch.arange(place.length, device=rows.device)
        visible = (steps < place.lengths[:, None])[:, None, None, :]
        query = query.view(place.sequences, 1, self.heads, -1).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        out: Tensor = self.project_out(mixed.reshape(place.sequences, dim))
        return out

    def _mix(self, projected: Tensor, place: Layout) -> Tensor:
        grid = spread(projected, place).view(place.sequences, place.length, 3, self.heads, -1)
        query, key, value = grid.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return gather(mixed.transpose(1, 2).flatten(2), place)
