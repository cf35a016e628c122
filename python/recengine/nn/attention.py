"""Softmax self-attention over packed sequences."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.nn.linear import Linear, linear
from recengine.nn.ragged import Layout, gather, spread
from recengine.ops import packed_kernel_takes, softmax_attention, softmax_attention_at
from recengine.ops._precision import wide


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """torch's scaled_dot_product_attention; [B, H, S, d_h] in, the same out, in the operands' type.

    One query a sequence on a CPU is written out: there torch cuts the keys by the number of threads, which
    changes bits.
    """
    if query.shape[-2] != 1 or query.device.type != "cpu" or causal:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    with torch.autocast("cpu", enabled=False):
        scores = (wide(query) * query.shape[-1] ** -0.5) @ wide(key).transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        mixed: Tensor = scores.softmax(-1) @ wide(value)
    return mixed.to(query.dtype)


class _SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(d_h) + mask) V, heads concatenated, then an output projection.

    On packed rows [T, d] all along where the operator has a kernel; elsewhere (CUDA, float64) the scores are
    made on the grid [B, longest], by torch's scaled_dot_product_attention.
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
        packed = self.project_in(rows).view(rows.shape[0], 3, self.heads, -1)
        if packed_kernel_takes(packed):
            mixed = softmax_attention(packed, cu_seqlens=place.offsets, causal=self.causal).flatten(1)
        else:
            mixed = self._on_a_grid(packed, place)
        out: Tensor = self.project_out(mixed)
        return out

    def _on_a_grid(self, packed: Tensor, place: Layout) -> Tensor:
        query, key, value = spread(packed, place).permute(2, 0, 3, 1, 4)
        whole = self.causal or place.free.numel() == 0
        mask = None if whole else self._real(place)
        mixed = attend(query, key, value, mask, self.causal)
        return gather(mixed.transpose(1, 2).flatten(2), place)

    def at(self, rows: Tensor, place: Layout, wanted: Tensor) -> Tensor:
        """The output [R, d] at some rows only; wanted int64 [R], ascending."""
        dim = rows.shape[1]
        weight, bias = self.project_in.weight, self.project_in.bias
        queries = linear(rows.index_select(0, wanted), weight[:dim], bias[:dim])
        keys = linear(rows, weight[dim:], bias[dim:])
        queries, keys = queries.view(len(wanted), self.heads, -1), keys.view(len(rows), 2, self.heads, -1)
        if packed_kernel_takes(queries):
            mixed = softmax_attention_at(
                queries, keys, wanted, cu_seqlens=place.offsets, causal=self.causal
            ).flatten(1)
        else:
            mixed = self._some_on_a_grid(queries, keys, place, wanted)
        out: Tensor = self.project_out(mixed)
        return out

    def _some_on_a_grid(self, queries: Tensor, keys: Tensor, place: Layout, wanted: Tensor) -> Tensor:
        asked = place.of(wanted)
        query = spread(queries, asked).transpose(1, 2)
        key, value = spread(keys, place).permute(2, 0, 3, 1, 4)
        visible = self._real(place)
        if self.causal:
            newest = place.position[wanted][asked.row].view(place.sequences, 1, asked.length, 1)
            visible = torch.arange(place.length, device=keys.device) <= newest
        mixed = attend(query, key, value, visible)
        return gather(mixed.transpose(1, 2).flatten(2), asked)

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
