"""Between packed rows (every sequence one after another, nothing else) and the padded grid of attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How the T rows of B packed sequences lie in a grid [B, length], each sequence at the left.

    cell: int64 [T], row t sits in cell b * length + i. position: int64 [T], i. lengths: int64 [B].
    Under a causal mask the free cells at the right need no mask: no real position sees them.
    """

    cell: Tensor
    position: Tensor
    lengths: Tensor
    length: int

    @property
    def sequences(self) -> int:
        return int(self.lengths.shape[0])

    @property
    def from_end(self) -> Tensor:
        """int64 [T], how many events of the sequence come after the row."""
        return self.lengths.repeat_interleave(self.lengths) - 1 - self.position


def layout(offsets: Tensor) -> Layout:
    """The Layout of packed sequences; offsets int64 [B + 1]."""
    lengths = offsets[1:] - offsets[:-1]
    total = int(offsets[-1])
    row = torch.repeat_interleave(torch.arange(lengths.shape[0], device=offsets.device), lengths)
    position = torch.arange(total, device=offsets.device) - offsets[row]
    longest = int(lengths.max()) if lengths.numel() else 0
    return Layout(row * longest + position, position, lengths, longest)


def keep_recent(items: Tensor, offsets: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The last ``limit`` events of each packed sequence: (items, offsets)."""
    lengths = offsets[1:] - offsets[:-1]
    if not lengths.numel() or int(lengths.max()) <= limit:
        return items, offsets
    after = offsets[1:].repeat_interleave(lengths) - torch.arange(items.shape[0], device=items.device)
    kept = lengths.clamp(max=limit)
    return items[after <= limit], torch.cat([kept.new_zeros(1), kept.cumsum(0)])


def spread(rows: Tensor, place: Layout) -> Tensor:
    """Packed rows [T, ...] into the grid [B, length, ...]; free cells are zero."""
    grid: Tensor = _Spread.apply(  # type: ignore[no-untyped-call]
        rows, place.cell, place.sequences * place.length
    )
    return grid.view(place.sequences, place.length, *rows.shape[1:])


def gather(grid: Tensor, place: Layout) -> Tensor:
    """The inverse of ``spread``: the real cells of [B, length, ...] as rows [T, ...]."""
    rows: Tensor = _Gather.apply(grid.flatten(0, 1), place.cell)  # type: ignore[no-untyped-call]
    return rows


class _Spread(torch.autograd.Function):
    """Cells are distinct, so each direction is a copy: no atomic or ordered additions in the backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cell: Tensor, cells: int) -> Tensor:
        ctx.save_for_backward(cell)
        return rows.new_zeros((cells, *rows.shape[1:])).index_copy_(0, cell, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (cell,) = ctx.saved_tensors
        return grad.index_select(0, cell), None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, cell: Tensor) -> Tensor:
        ctx.save_for_backward(cell)
        ctx.cells = grid.shape[0]
        return grid.index_select(0, cell)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (cell,) = ctx.saved_tensors
        return grad.new_zeros((ctx.cells, *grad.shape[1:])).index_copy_(0, cell, grad), None
