r"""Retrieval over the whole catalogue: the best items of each user, or the exact rank of one.

With scores :math:`s_{bi} = \langle q_b, x_i\rangle + c_i`, :func:`topk` returns the k largest of each row and
:func:`rank_of` counts how many come before a given item. Neither stores the scores.

Order, everywhere in this module: higher score first, equal scores by smaller item id. An item that was seen,
or whose score is NaN or -inf, is never returned and comes before nothing.

Kernels read items in blocks and keep, per user, the best k so far; a block lets through only what beats the
k-th of them. Where the processor has bf16 matrix tiles, these look first: a bound on the rounding of each
score decides what cannot enter, and everything else is scored again in float32, so the answer is exact.
On the CPU, and on CUDA in float32, a score is one float32 chain of multiply-adds over the dimensions in
order, whichever kernel runs; neither the number of threads nor the number of queries in a call changes a bit
of it. On CUDA in 16 bits :func:`topk` takes tensor cores and :func:`rank_of` the chain: scores that almost
tie may be ordered differently by the two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._checks import dtype_name, need_device, need_floating
from ._library import native
from ._precision import kernel_takes

__all__ = ["MAX_K", "rank_of", "rank_of_reference", "topk", "topk_reference"]

MAX_K = 1000
_ROWS = 256  # of a chunk of the references


def topk(
    queries: Tensor,
    items: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    seen_indptr: Tensor | None = None,
    seen_items: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The k best unseen items of every query by inner product.

    .. math:: \mathrm{ids}_b = \operatorname{arg\,top}_k \{\, \langle q_b, x_i\rangle + c_i :
              i \notin \mathrm{seen}_b \,\}

    Parameters
    ----------
    queries: [B, d] float32 or bfloat16 (float16 on CUDA), any strides.
    items: [I, d], same dtype and device.
    k: 1 to 1000; may exceed I.
    bias: [I] or None, float32 or the dtype of ``items``. A bias of -inf takes an item out.
    seen_indptr, seen_items: what each query must not be given, as CSR: row b is
        ``seen_items[seen_indptr[b]:seen_indptr[b + 1]]``. int64 [B + 1], and int64 or int32 ids in any order,
        repeats allowed. Give both or neither. They, ``bias`` and (of :func:`rank_of`) ``targets`` are copied
        where they are not contiguous, ``bias`` also where it is not float32.

    Returns
    -------
    scores: [B, k] float32 (float64 for float64), best first; -inf where fewer than k items are left.
    ids: [B, k] int64; -1 there. No gradient flows through either.

    Raises
    ------
    RuntimeError: naming the argument, where a shape, dtype, device, k or a seen id does not fit.
    """
    seen = {"seen_indptr": seen_indptr, "seen_items": seen_items}
    need_floating("topk", queries=queries, items=items, bias=bias)
    need_device("topk", "queries", queries, items=items, bias=bias, **seen)
    queries, items = queries.detach(), items.detach()
    bias = None if bias is None else bias.detach()
    if kernel_takes(queries):
        found: tuple[Tensor, Tensor] = torch.ops.recengine.topk(
            queries, items, bias, seen_indptr, seen_items, k
        )
        return found
    return topk_reference(queries, items, k, bias=bias, seen_indptr=seen_indptr, seen_items=seen_items)


def topk_reference(
    queries: Tensor,
    items: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    seen_indptr: Tensor | None = None,
    seen_items: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`topk` in plain torch, a few hundred rows of scores at a time."""
    _check("topk", queries, items, bias, seen_indptr, seen_items)
    _need(1 <= k <= MAX_K, f"topk: k is {k}, expected 1 to {MAX_K}")
    wide = torch.promote_types(queries.dtype, torch.float32)
    scores = queries.new_full((queries.shape[0], k), -torch.inf, dtype=wide)
    ids = queries.new_full((queries.shape[0], k), -1, dtype=torch.int64)
    kept = min(k, items.shape[0])
    for begin in range(0, queries.shape[0], _ROWS):
        part = _scores(queries[begin : begin + _ROWS], items, bias, seen_indptr, seen_items, begin)
        best, order = part.sort(dim=1, descending=True, stable=True)
        end = begin + part.shape[0]
        scores[begin:end, :kept] = best[:, :kept]
        ids[begin:end, :kept] = torch.where(best[:, :kept] > -torch.inf, order[:, :kept], -1)
    return scores, ids


def rank_of(
    queries: Tensor,
    items: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    seen_indptr: Tensor | None = None,
    seen_items: Tensor | None = None,
) -> Tensor:
    r"""How many unseen items come before the target of each query: 0 means it would be ranked first.

    .. math:: \mathrm{rank}_b = \#\{\, i \notin \mathrm{seen}_b,\ i \ne t_b :
              s_{bi} > s_{b t_b} \ \text{or}\ (s_{bi} = s_{b t_b} \text{ and } i < t_b) \,\}

    Exact whatever the catalogue's size, so metrics at any cut-off follow from one number a user. Arguments as
    in :func:`topk`; ``targets`` is int64 [B]. The target itself counts as unseen.

    Returns
    -------
    int64 [B]; -1 where the target's own score is NaN or -inf (it is never retrieved).

    Raises
    ------
    RuntimeError: naming the argument that does not fit.
    """
    seen = {"seen_indptr": seen_indptr, "seen_items": seen_items}
    need_floating("rank_of", queries=queries, items=items, bias=bias)
    need_device("rank_of", "queries", queries, items=items, targets=targets, bias=bias, **seen)
    queries, items = queries.detach(), items.detach()
    bias = None if bias is None else bias.detach()
    if kernel_takes(queries):
        found: Tensor = torch.ops.recengine.rank_of(queries, items, targets, bias, seen_indptr, seen_items)
        return found
    return rank_of_reference(
        queries, items, targets, bias=bias, seen_indptr=seen_indptr, seen_items=seen_items
    )


def rank_of_reference(
    queries: Tensor,
    items: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    seen_indptr: Tensor | None = None,
    seen_items: Tensor | None = None,
) -> Tensor:
    """:func:`rank_of` in plain torch, a few hundred rows of scores at a time."""
    _check("rank_of", queries, items, bias, seen_indptr, seen_items)
    _need(
        targets.shape == queries.shape[:1] and targets.dtype == torch.int64,
        f"rank_of: targets must be int64 [{queries.shape[0]}]",
    )
    _need(
        not targets.numel() or (int(targets.min()) >= 0 and int(targets.max()) < items.shape[0]),
        f"rank_of: targets must be ids of 0 to {items.shape[0] - 1}",
    )
    ranks = torch.empty_like(targets)
    column = torch.arange(items.shape[0], device=items.device)
    for begin in range(0, queries.shape[0], _ROWS):
        rows = queries[begin : begin + _ROWS]
        wanted = targets[begin : begin + _ROWS, None]
        own = _scores(rows, items, bias, None, None, begin).gather(1, wanted)
        part = _scores(rows, items, bias, seen_indptr, seen_items, begin)
        before = (part > own) | ((part == own) & (column < wanted) & (part > -torch.inf))
        before.scatter_(1, wanted, False)
        ranks[begin : begin + _ROWS] = torch.where(own[:, 0] > -torch.inf, before.sum(1), -1)
    return ranks


def _scores(
    rows: Tensor,
    items: Tensor,
    bias: Tensor | None,
    seen_indptr: Tensor | None,
    seen_items: Tensor | None,
    first: int,
) -> Tensor:
    """Scores of queries first, first + 1, ...; NaN and what was seen at -inf."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    scores = rows.to(wide) @ items.to(wide).t()
    if bias is not None:
        scores = scores + bias.to(wide)
    scores = torch.where(scores.isnan(), -torch.inf, scores)
    if seen_indptr is not None and seen_items is not None:
        bounds = seen_indptr[first : first + rows.shape[0] + 1]
        row = torch.repeat_interleave(torch.arange(rows.shape[0], device=rows.device), bounds.diff())
        scores[row, seen_items[int(bounds[0]) : int(bounds[-1])].long()] = -torch.inf
    return scores


def _need(held: bool, message: str) -> None:
    if not held:
        raise RuntimeError(message)


def _check(
    op: str,
    queries: Tensor,
    items: Tensor,
    bias: Tensor | None,
    seen_indptr: Tensor | None,
    seen_items: Tensor | None,
) -> None:
    def need(held: bool, message: str) -> None:
        _need(held, f"{op}: {message}")

    need(queries.dim() == 2, f"queries has {queries.dim()} dimensions, expected 2")
    need(items.dim() == 2, f"items has {items.dim()} dimensions, expected 2")
    need(
        queries.dtype == items.dtype,
        f"queries and items must have the same dtype, found {dtype_name(queries)} and {dtype_name(items)}",
    )
    need(
        items.shape[1] == queries.shape[1],
        f"items has size {items.shape[1]} in dimension 1, expected {queries.shape[1]}",
    )
    if bias is not None:
        need(bias.shape == items.shape[:1], f"bias must have shape [{items.shape[0]}]")
    need(
        (seen_indptr is None) == (seen_items is None),
        "seen_indptr and seen_items belong together: give both or neither",
    )
    if seen_indptr is None or seen_items is None:
        return
    n = queries.shape[0] + 1
    need(seen_indptr.dtype == torch.int64 and seen_indptr.shape == (n,), f"seen_indptr must be int64 [{n}]")
    need(
        seen_items.dim() == 1 and seen_items.dtype in (torch.int32, torch.int64),
        "seen_items must be a vector of int64 or int32",
    )
    need(
        int(seen_indptr[0]) == 0
        and int(seen_indptr[-1]) == seen_items.shape[0]
        and not bool((seen_indptr.diff() < 0).any()),
        f"seen_indptr must rise from 0 to {seen_items.shape[0]}",
    )
    need(
        not seen_items.numel() or (int(seen_items.min()) >= 0 and int(seen_items.max()) < items.shape[0]),
        f"seen_items must hold ids of 0 to {items.shape[0] - 1}",
    )


def _fake_topk(
    queries: Tensor,
    items: Tensor,
    bias: Tensor | None,
    seen_indptr: Tensor | None,
    seen_items: Tensor | None,
    k: int,
) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return queries.new_empty(shape, dtype=torch.float32), queries.new_empty(shape, dtype=torch.int64)


def _fake_rank_of(
    queries: Tensor,
    items: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    seen_indptr: Tensor | None,
    seen_items: Tensor | None,
) -> Tensor:
    return torch.empty_like(targets)


if native().cpu:
    torch.library.register_fake("recengine::topk", _fake_topk)
    torch.library.register_fake("recengine::rank_of", _fake_rank_of)
