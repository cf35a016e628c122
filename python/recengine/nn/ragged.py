"""Between packed rows (every sequence one after another, nothing else) and the padded grid of attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How the T rows of B packed sequences lie in a grid [B, length], each sequence at the left.

    offsets: int64 [B + 1]. sequence, position: int64 [T], whose row it is and its place there from 0.
    lengths: int64 [B]; length: the longest. Under a causal mask the free cells at the right need no mask:
    no real position sees them.
    """

    offsets: Tensor
    lengths: Tensor
    length: int
    sequence: Tensor
    position: Tensor

    @property
    def sequences(self) -> int:
        return int(self.lengths.shape[0])

    @cached_property
    def cell(self) -> Tensor:
        """int64 [T], row t sits in cell b * length + i."""
        return self.sequence * self.length + self.position

    @cached_property
    def row(self) -> Tensor:
        """int64 [B * length], which row a cell shows; a free cell shows its sequence's last row (row 0 of all
        where the sequence is empty)."""
        inside = torch.minimum(self._steps, self.lengths[:, None] - 1)
        return (self.offsets[:-1, None] + inside).clamp_(min=0).flatten()

    @cached_property
    def free(self) -> Tensor:
        """int64, the free cells."""
        return torch.nonzero((self._steps >= self.lengths[:, None]).flatten()).flatten()

    @property
    def from_end(self) -> Tensor:
        """int64 [T], how many events of the sequence come after the row."""
        return self.lengths[self.sequence] - 1 - self.position

    @property
    def ends(self) -> Tensor:
        """int64 [B], the last row of each sequence (none of them empty)."""
        return self.offsets[1:] - 1

    @property
    def _steps(self) -> Tensor:
        return torch.arange(self.length, device=self.lengths.device)

    def of(self, wanted: Tensor) -> Layout:
        """The Layout of some of the rows; wanted int64 [R], ascending."""
        counts = torch.bincount(self.sequence[wanted], minlength=self.sequences)
        return layout(torch.cat([counts.new_zeros(1), counts.cumsum(0)]))


def layout(offsets: Tensor) -> Layout:
    """The Layout of packed sequences; offsets int64 [B + 1]."""
    device = offsets.device
    lengths = offsets[1:] - offsets[:-1]
    longest = int(lengths.max()) if lengths.numel() else 0
    sequence = torch.repeat_interleave(torch.arange(lengths.shape[0], device=device), lengths)
    position = torch.arange(sequence.shape[0], device=device) - offsets[sequence]
    return Layout(offsets, lengths, longest, sequence, position)


def keep_recent(items: Tensor, offsets: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The last ``limit`` events of each packed sequence: (items, offsets)."""
    lengths = offsets[1:] - offsets[:-1]
    if not lengths.numel() or int(lengths.max()) <= limit:
        return items, offsets
    after = offsets[1:].repeat_interleave(lengths) - torch.arange(items.shape[0], device=items.device)
    kept = lengths.clamp(max=limit)
    return items[after <= limit], torch.cat([kept.new_zeros(1), kept.cumsum(0)])


def keep_window(items: Tensor, offsets: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The last ``window_of(n, limit)`` events of each packed sequence of n events: (items, offsets)."""
    lengths = offsets[1:] - offsets[:-1]
    if not lengths.numel() or int(lengths.max()) <= limit:
        return items, offsets
    kept = window_of(lengths, limit)
    after = offsets[1:].repeat_interleave(lengths) - torch.arange(items.shape[0], device=items.device)
    return items[after <= kept.repeat_interleave(lengths)], torch.cat([kept.new_zeros(1), kept.cumsum(0)])


def window_of(lengths: Tensor, limit: int) -> Tensor:
    """How many of a history's newest events a model sees that takes events one at a time: all of them up to
    ``limit``; the next event starts again with the newest ``limit // 2`` events and itself. A function of
    the number of events alone, so a state that was carried along and a history read at once see the same."""
    step = limit - limit // 2
    return torch.where(lengths <= limit, lengths, limit // 2 + 1 + (lengths - limit - 1) % step)


def append_one(items: Tensor, offsets: Tensor, item: int) -> tuple[Tensor, Tensor]:
    """``item`` behind every packed sequence: (items, offsets)."""
    more = torch.arange(offsets.shape[0], device=offsets.device)
    made = items.new_full((items.shape[0] + offsets.shape[0] - 1,), item)
    place = torch.repeat_interleave(more[:-1], offsets[1:] - offsets[:-1])
    made[torch.arange(items.shape[0], device=items.device) + place] = items
    return made, offsets + more


def runs(offsets: Tensor, limit: int) -> Iterator[tuple[int, int]]:
    """begin and end of runs of packed sequences that have at most ``limit`` rows together (one sequence at
    least); offsets int64 [B + 1]."""
    begin, count = 0, offsets.shape[0] - 1
    while begin < count:
        end = int(torch.searchsorted(offsets, offsets[begin] + limit, right=True)) - 1
        end = max(end, begin + 1)
        yield begin, end
        begin = end


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
