"""Ragged histories as sets."""

from __future__ import annotations

import torch
from torch import Tensor


def distinct_rows(items: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each ragged row as a set with counts.

    items: int64 [T], rows one after another; offsets: int64 [B + 1].
    Returns (items int64 [T'], offsets int64 [B + 1], counts float32 [T']): the items of each row once,
    ascending, and how often each occurred.
    """
    rows = offsets.numel() - 1
    row = torch.arange(rows, device=items.device).repeat_interleave(offsets.diff())
    width = int(items.max()) + 1 if items.numel() else 1
    key, counts = torch.unique(row * width + items, return_counts=True)
    lengths = torch.bincount(key // width, minlength=rows)
    return key % width, torch.nn.functional.pad(lengths.cumsum(0), (1, 0)), counts.to(torch.float32)
