"""The rows of an item table that a batch names."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def named_items(items: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``items`` with only the rows that ``positives`` [R] and ``negatives`` [N] name, in ascending order of
    their ids, and the two renumbered: equal ids stay equal, a row's gradient goes where it belongs.

    A loss of cosines then normalises the rows that it reads instead of the whole table. As given where that
    would not pay: on a GPU, which would have to wait for the number of rows, for a table of less than twice
    as many rows as there are ids, and where an id is -1 (no entry).
    """
    ids = positives.shape[0] + negatives.shape[0]
    if items.device.type != "cpu" or torch.compiler.is_compiling() or 2 * ids > items.shape[0] or not ids:
        return items, positives, negatives
    rows, places = torch.unique(torch.cat([positives, negatives]), return_inverse=True)
    if int(rows[0]) < 0:
        return items, positives, negatives
    return functional.embedding(rows, items), places[: positives.shape[0]], places[positives.shape[0] :]
