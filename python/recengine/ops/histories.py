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


def in_histories(users: Tensor, histories: tuple[Tensor, Tensor], candidates: Tensor, n_items: int) -> Tensor:
    """Which of the ``candidates`` (int64 [N], shared by all rows; -1 is none) each row's user has met.

    users: int64 [R]; histories: (indptr [n_users + 1], items): the rows' items, in any order.
    Returns bool [R, N]. Costs the entries of the rows' histories and one pass over the answer.
    """
    indptr, items = histories
    asked, place = torch.unique(candidates, return_inverse=True)
    column = torch.full((n_items,), -1, dtype=torch.int64, device=users.device)
    column[asked[asked >= 0]] = torch.arange(len(asked), device=users.device)[asked >= 0]
    begin, counts = indptr[users], indptr[users + 1] - indptr[users]
    row = torch.arange(len(users), device=users.device).repeat_interleave(counts)
    first = (begin - (counts.cumsum(0) - counts)).repeat_interleave(counts)
    met = column[items[first + torch.arange(len(row), device=users.device)]]
    answer = torch.zeros(len(users), len(asked), dtype=torch.bool, device=users.device)
    answer[row[met >= 0], met[met >= 0]] = True
    return answer.index_select(1, place) & (candidates >= 0)
