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
    row: int64 [B * length], which row a cell shows; a free cell shows its sequence's last row (row 0 of all
    where the sequence is empty). free: int64, the free cells.
    Under a causal mask the free cells at the right need no mask: no real position sees them.
    """

    cell: Tensor
    position: Tensor
    lengths: Tensor
    length: int
    row: Tensor
    free: Tensor

    @property
    def sequences(self) -> int:
        return int(self.lengths.shape[0])

    @property
    def from_end(self) -> Tensor:
        """int64 [T], how many events of the sequence come after the row."""
        return self.lengths.repeat_interleave(self.lengths) - 1 - self.position


def layout(offsets: Tensor) -> Layout:
    """The Layout of packed sequences; offsets int64 [B + 1]."""
    device = offsets.device
    lengths = offsets[1:] - offsets[:-1]
    longest = int(lengths.max()) if lengths.numel() else 0
    sequence = torch.repeat_interleave(torch.arange(lengths.shape[0], device=device), lengths)
    position = torch.arange(sequence.shape[0], device=device) - offsets[sequence]
    steps = torch.arange(longest, device=device)
    row = (offsets[:-1, None] + torch.minimum(steps, lengths[:, None] - 1)).clamp_(min=0)
    free = torch.nonzero((steps >= lengths[:, None]).flatten()).flatten()
    return Layout(sequence * longest + position, position, lengths, longest, row.flatten(), free)


def keep_recent(items: Tensor, offsets: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The last ``limit`` events of each packed sequence: (items, offsets)."""
    lengths = offsets[1:] - offsets[:-1]
    if not lengths.numel() or int(lengths.max()) <= limit:
        return items, offsets
    after = offsets[1:].repeat_interleave(lengths) - torch.arange(items.shape[0], device=items.device)
    kept = lengths.clamp(max=limit)
    return items[after <= limit], torch.cat([kept.new_zeros(1), kept.cumsum(0)])


def spread(rows: Tensor, place: Layout) -> Tensor:
    """Packed rows [T, ...] into the grid [B, length, ...]; free cells repeat a row and take no gradient."""
    grid: Tensor = _Spread.apply(rows, place.row, place.cell)  # type: ignore[no-untyped-call]
    return grid.view(place.sequences, place.length, *rows.shape[1:])


def gather(grid: Tensor, place: Layout) -> Tensor:
    """The real cells of [B, length, ...] as rows [T, ...]; free cells get a gradient of zero."""
    rows: Tensor = _Gather.apply(  # type: ignore[no-untyped-call]
        grid.flatten(0, 1), place.cell, place.row, place.free
    )
    return rows


class _Spread(torch.autograd.Function):
    """Each row has one cell of its own, so the backward is a copy: nothing is added up, in any order."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, row: Tensor, cell: Tensor) -> Tensor:
        ctx.save_for_backward(cell)
        return rows.index_select(0, row)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (cell,) = ctx.saved_tensors
        return grad.index_select(0, cell), None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, cell: Tensor, row: Tensor, free: Tensor) -> Tensor:
        ctx.save_for_backward(row, free)
        return grid.index_select(0, cell)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        row, free = ctx.saved_tensors
        return grad.index_select(0, row).index_fill_(0, free, 0), None, None, None
