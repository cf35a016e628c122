"""Softmax self-attention over packed sequences."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.nn.linear import Linear, linear
from recengine.nn.ragged import Layout, gather, spread

SHORT = 128  # keys up to which torch's bfloat16 backward on a CPU takes longer than float32's


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """torch's scaled_dot_product_attention; [B, H, S, d_h] in, the same out, in the operands' type.

    In bfloat16 with gradients on a CPU, short sequences are computed in float32: torch's backward in bfloat16
    takes three to ten times as long there (torch 2.13, lengths 20 to 50), and the sums gain in precision.
    One query a sequence on a CPU is written out: there torch cuts the keys by the number of threads, which
    changes bits (and takes three times as long for a thousand sequences).
    """
    plain = functional.scaled_dot_product_attention
    if query.shape[-2] == 1 and query.device.type == "cpu" and not causal:
        with torch.autocast("cpu", enabled=False):
            return _one_query(query.float(), key.float(), value.float(), mask).to(query.dtype)
    slow = query.dtype == torch.bfloat16 and query.device.type == "cpu" and key.shape[-2] <= SHORT
    if not (slow and torch.is_grad_enabled() and query.requires_grad):
        return plain(query, key, value, attn_mask=mask, is_causal=causal)
    with torch.autocast("cpu", enabled=False):
        wide = plain(query.float(), key.float(), value.float(), attn_mask=mask, is_causal=causal)
    return wide.to(query.dtype)


def _one_query(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    mixed: Tensor = scores.softmax(-1) @ value
    return mixed


class _SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(d_h) + mask) V, heads concatenated, then an output projection.

    Projections run on the packed rows [T, d]; only the scores are made on the grid [B, longest].
    Source: Vaswani et al., "Attention is all you need", 2017.

    dim must be a multiple of heads (ValueError otherwise).
    """

    causal: ClassVar[bool]

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
        self.heads = heads
        self.project_in = Linear(dim, 3 * dim)
        self.project_out = Linear(dim, dim)

    def forward(self, rows: Tensor, place: Layout) -> Tensor:
        """rows [T, d] -> [T, d]."""
        grid = spread(self.project_in(rows), place).view(place.sequences, place.length, 3, self.heads, -1)
        query, key, value = grid.permute(2, 0, 3, 1, 4)
        whole = self.causal or place.free.numel() == 0
        mixed = attend(query, key, value, None if whole else self._real(place), self.causal)
        out: Tensor = self.project_out(gather(mixed.transpose(1, 2).flatten(2), place))
        return out

    def at(self, rows: Tensor, place: Layout, wanted: Tensor) -> Tensor:
        """The output [R, d] at some rows only; wanted int64 [R], ascending."""
        dim, asked = rows.shape[1], place.of(wanted)
        weight, bias = self.project_in.weight, self.project_in.bias
        queries = linear(rows.index_select(0, wanted), weight[:dim], bias[:dim])
        keys = linear(rows, weight[dim:], bias[dim:])
        query = spread(queries, asked).view(place.sequences, asked.length, self.heads, -1).transpose(1, 2)
        grid = spread(keys, place).view(place.sequences, place.length, 2, self.heads, -1)
        key, value = grid.permute(2, 0, 3, 1, 4)
        visible = self._real(place)
        if self.causal:
            newest = place.position[wanted][asked.row].view(place.sequences, 1, asked.length, 1)
            visible = torch.arange(place.length, device=rows.device) <= newest
        mixed = attend(query, key, value, visible)
        out: Tensor = self.project_out(gather(mixed.transpose(1, 2).flatten(2), asked))
        return out

    @staticmethod
    def _real(place: Layout) -> Tensor:
        """bool [B, 1, 1, length], the cells that hold an event."""
        steps = torch.arange(place.length, device=place.lengths.device)
        return (steps < place.lengths[:, None])[:, None, None, :]


class CausalSelfAttention(_SelfAttention):
    """Multi-head attention in which a position sees itself and what came before it in its own sequence."""

    causal = True


class BidirectionalSelfAttention(_SelfAttention):
    """Multi-head attention in which a position sees all of its own sequence."""

    causal = False
