"""Random negatives: draws that are a function of (seed, row, slot), whatever the number of threads.

A 64-bit counter is hashed (the finaliser of splitmix64), so no state passes from draw to draw: draw ``slot``
of row ``r`` is

    h = mix(mix(seed + (r + 1) c1) + (slot + 1) c2 + attempt c3),   item = floor(h_high n / 2^32)

and, with an alias table (Walker 1977, Vose 1991), ``item`` if h_low < keep[item], else alias[item]. While
the row's user met the item, the next attempt is made; after 32 of them the draw is made among what the user
did not meet: uniformly, with an alias table by the shares of the table (of what it gives no share nothing is
drawn). The reference without the kernel gives the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UsageError
from ._checks import need_device, need_range, readable
from ._library import has_cpu_kernel, native
from .sampled_softmax import sampled_scores

__all__ = ["draw_negatives", "hardest"]

_ROW, _SLOT, _ATTEMPT = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0x8CB92BA72F3D8DD7
_ATTEMPTS = 32
Words = NDArray[np.uint64]


def draw_negatives(
    users: Tensor,
    count: int,
    n_items: int,
    *,
    seed: int,
    met: tuple[Tensor, Tensor] | None = None,
    alias: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """``count`` items for every row that the row's user did not meet, with replacement: int64 [B, count].

    Parameters
    ----------
    users: int64 [B] on the CPU; -1: nobody, nothing is rejected.
    count, n_items: draws a row; items of the catalogue, below 2^31.
    seed: any integer; the same seed gives the same draws.
    met: (indptr int64 [U + 1], items int32 or int64), the distinct items each user met; None: no rejection.
    alias: (keep float32 [n_items], alias int32 or int64 [n_items]), an alias table; None: uniform.

    Raises
    ------
    UsageError: a user met every item, so that there is no negative to draw. RuntimeError: naming the argument
        that does not fit, or the user who met every item to which the alias table gives a share.
    """
    indptr, items = (None, None) if met is None else (met[0], _narrow("met", met[1], n_items))
    tables = {} if alias is None else {"keep": alias[0], "alias": alias[1]}
    need_device("draw_negatives", "users", users, indptr=indptr, met=items, **tables)
    if indptr is not None and readable(users) and users.numel():
        need_range("draw_negatives", "users", users, -1, indptr.shape[0] - 2)
        _need_a_negative(users, indptr, n_items)
    keep, other = (None, None) if alias is None else (alias[0], _narrow("alias", alias[1], n_items))
    signed = (seed + 2**63) % 2**64 - 2**63
    if has_cpu_kernel(users):
        drawn: Tensor = torch.ops.recengine.draw_negatives(
            users, count, n_items, keep, other, indptr, items, signed
        )
        return drawn
    return draw_negatives_reference(users, count, n_items, keep, other, indptr, items, signed)


def hardest(anchors: Tensor, table: Tensor, candidates: Tensor, keep: int) -> Tensor:
    """Of each row's candidates the ``keep`` with the largest inner products, best first: int64 [B, keep].

    anchors [B, d], table [I, d], candidates int64 [B, N] (-1: none; such entries come last). No gradient.
    Raises UsageError when ``keep`` is not between 1 and N.
    """
    if not 1 <= keep <= candidates.shape[1]:
        raise UsageError(
            "cannot keep that many of the sampled items",
            where="hardest",
            found=keep,
            expected=f"1 to {candidates.shape[1]}",
        )
    scores = sampled_scores(anchors, table, candidates).masked_fill(candidates < 0, -torch.inf)
    return candidates.gather(1, scores.topk(keep, dim=1).indices)


def draw_negatives_reference(
    users: Tensor,
    count: int,
    n_items: int,
    keep: Tensor | None,
    alias: Tensor | None,
    indptr: Tensor | None,
    met: Tensor | None,
    seed: int,
) -> Tensor:
    """The same bits without the kernel; makes a users-by-items mask of the rows."""
    rows = users.numel()
    forbidden = np.zeros((rows, n_items), bool)
    if indptr is not None and met is not None:
        for row, user in enumerate(users.tolist()):
            if user >= 0:
                forbidden[row, met[int(indptr[user]) : int(indptr[user + 1])].numpy()] = True
    table = None if keep is None or alias is None else (keep.numpy(), alias.numpy().astype(np.int64))
    with np.errstate(over="ignore"):
        start = np.uint64(seed % 2**64)
        base = _mixed(start + np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(_ROW))
        place = base[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_SLOT)
        bits = _mixed(place)
        drawn = _proposals(bits, n_items, table)
        for attempt in range(1, _ATTEMPTS + 1):
            at_row, at_slot = np.nonzero(np.take_along_axis(forbidden, drawn, 1))
            if not at_row.size:
                break
            bits = _mixed(place[at_row, at_slot] + np.uint64(attempt) * np.uint64(_ATTEMPT))
            if attempt < _ATTEMPTS:
                drawn[at_row, at_slot] = _proposals(bits, n_items, table)
            elif table is not None:
                for r in np.unique(at_row):
                    here = at_row == r
                    drawn[r, at_slot[here]] = _by_share(bits[here], forbidden[r], table, int(users[r]))
            else:
                free = [np.flatnonzero(~forbidden[r]) for r in at_row]
                at = [int(_scaled(b, f.size)) for b, f in zip(bits, free, strict=True)]
                drawn[at_row, at_slot] = [f[a] for f, a in zip(free, at, strict=True)]
    return torch.from_numpy(drawn)


def _mixed(x: Words) -> Words:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _scaled(bits: Any, size: int) -> Any:
    return ((bits >> np.uint64(32)) * np.uint64(size)) >> np.uint64(32)


def _proposals(bits: Words, n_items: int, table: tuple[Any, Any] | None) -> NDArray[np.int64]:
    cell = np.asarray(_scaled(bits, n_items)).astype(np.int64)
    if table is None:
        return cell
    low = (bits & np.uint64(0xFFFFFFFF)) >> np.uint64(8)
    uniform = low.astype(np.float32) * np.float32(2.0**-24)
    return np.where(uniform < table[0][cell], cell, table[1][cell])


def _by_share(bits: Words, forbidden: Any, table: tuple[Any, Any], user: int) -> NDArray[np.int64]:
    """Items that are not forbidden, each by its share of what the table gives to such."""
    keep, alias = np.clip(np.nan_to_num(table[0].astype(np.float64)), 0.0, 1.0), table[1]
    given = np.where(forbidden, 0.0, keep), np.where(forbidden[alias], 0.0, 1.0 - keep)
    sums = np.cumsum(np.stack(given, 1).ravel())[1::2]
    if not sums[-1] > 0:
        raise RuntimeError(
            f"draw_negatives: user {user} met every item to which the alias table gives a share: there is no "
            "negative to draw"
        )
    at = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53 * sums[-1]
    cell = np.searchsorted(sums, at, side="right")
    of_cell = at < np.where(cell > 0, sums[cell - 1], 0.0) + keep[cell]
    mine = ~forbidden[cell] & (forbidden[alias[cell]] | of_cell)
    return np.asarray(np.where(mine, cell, alias[cell]))


def _narrow(name: str, items: Tensor, n_items: int) -> Tensor:
    """As int32: what does not fit must not come out as another item."""
    if items.dtype == torch.int32:
        return items
    need_range("draw_negatives", name, items, 0, n_items - 1)
    return items.to(torch.int32)


def _need_a_negative(users: Tensor, indptr: Tensor, n_items: int) -> None:
    known = users[users >= 0]
    full = indptr[known + 1] - indptr[known] >= n_items
    if bool(full.any()):
        raise UsageError(
            "a user met every item of the catalogue: there is no negative to draw",
            where="loss.sampler",
            found=f"user row {int(known[full][0])} with all {n_items} items",
            fix="leave such users out of the training data, or set loss.shared = true or "
            "loss.sampler = 'in_batch', which reject nothing",
        )


def _fake(users: Tensor, count: int, *_: Any) -> Tensor:
    return users.new_empty((users.shape[0], count))


if native().cpu:
    torch.library.register_fake("recengine::draw_negatives", _fake)
