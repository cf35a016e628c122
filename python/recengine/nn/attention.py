"""Causal self-attention over packed sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.nn.ragged import Layout, gather, spread

SHORT = 128  # positions up to which the batched products win over the blockwise kernel


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
        projected = self.project_in(rows)
        short = place.length <= SHORT and rows.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        mixed = _ShortAttention.apply(projected, place, self.heads) if short else self._mix(projected, place)  # type: ignore[no-untyped-call]
        out: Tensor = self.project_out(mixed)
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


class _ShortAttention(torch.autograd.Function):
    """Causal attention of many short sequences as a few batched products over the whole grid.

    P = softmax(Q K^T / sqrt(d_h) + causal), O = P V. With G = dL/dO and delta = rowsum(G * O):

        dV = P^T G,   dS = P * (G V^T - delta),   dQ = dS K / sqrt(d_h),   dK = dS^T Q / sqrt(d_h)

    For up to SHORT positions this takes less than half the time of torch's blockwise kernel on a CPU, which
    is made for long sequences. Gradients are written beside each other into one grid, then copied to the rows.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, place: Layout, heads: int) -> Tensor:
        grid = projected.index_select(0, place.row)
        query, key, value = _by_head(grid, place, heads)
        scale = query.shape[-1] ** -0.5
        future = torch.full((place.length, place.length), -torch.inf, dtype=grid.dtype).triu_(1)
        weights = torch.softmax(torch.baddbmm(future, query, key.transpose(1, 2), alpha=scale), -1)
        mixed = torch.bmm(weights, value)
        ctx.save_for_backward(grid, weights, mixed)
        ctx.place, ctx.heads, ctx.scale = place, heads, scale
        return _to_grid(mixed, place, heads).index_select(0, place.cell)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        grid, weights, mixed = ctx.saved_tensors
        place: Layout = ctx.place
        query, key, value = _by_head(grid, place, ctx.heads)
        outer = grad.index_select(0, place.row).index_fill_(0, place.free, 0)
        outer = outer.view(place.sequences, place.length, ctx.heads, -1).transpose(1, 2).flatten(0, 1)
        grads = torch.empty_like(grid)
        to_query, to_key, to_value = (
            part.view(place.sequences, place.length, ctx.heads, -1).transpose(1, 2)
            for part in grads.view(place.sequences, place.length, -1).chunk(3, dim=2)
        )
        shape = to_query.shape
        to_value.copy_(torch.bmm(weights.transpose(1, 2), outer).view(shape))
        inner = torch.bmm(outer, value.transpose(1, 2))
        inner.sub_((outer * mixed).sum(-1, keepdim=True)).mul_(weights).mul_(ctx.scale)
        to_query.copy_(torch.bmm(inner, key).view(shape))
        to_key.copy_(torch.bmm(inner.transpose(1, 2), query).view(shape))
        return grads.index_select(0, place.cell), None, None


def _by_head(grid: Tensor, place: Layout, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B * heads, length, d_h] of the grid [B * length, 3 d]."""
    parts = grid.view(place.sequences, place.length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = parts.reshape(3, place.sequences * heads, place.length, -1)
    return query, key, value


def _to_grid(mixed: Tensor, place: Layout, heads: int) -> Tensor:
    """[B * heads, length, d_h] as [B * length, d]."""
    by_head = mixed.view(place.sequences, heads, place.length, -1)
    return by_head.transpose(1, 2).reshape(place.sequences * place.length, -1)
