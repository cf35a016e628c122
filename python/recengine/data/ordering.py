"""One canonical order of events: by user, then time, then a tie order. Counting passes, no comparisons."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

TieOrder = Literal["hash", "rows"]
_CHUNK = 1 << 20
_DIGIT = 16  # numpy sorts 16-bit keys by counting, in linear time


def tie_hash(rows: NDArray[Any], seed: int) -> NDArray[np.uint64]:
    """A seeded 64-bit mix of row numbers (splitmix64): an order that nothing in the data predicts.

    One-to-one for a fixed seed, so that two rows never tie again.
    """
    with np.errstate(over="ignore"):
        x = rows.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & (2**64 - 1))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def canonical_order(
    user: NDArray[np.int32], time: NDArray[np.int64] | None, ties: TieOrder, seed: int
) -> NDArray[np.int64]:
    """Positions of the rows sorted by (user, time, tie order); equals
    ``np.lexsort((tie_key, time, user))`` with the tie key the row number or its ``tie_hash``."""
    order = None if _is_ordered(user, time) else _by_user_and_time(user, time)
    if ties == "rows":
        return np.arange(user.shape[0], dtype=np.int64) if order is None else order
    order = np.arange(user.shape[0], dtype=np.int64) if order is None else order
    reorder_ties(order, tie_mask(user[order], None if time is None else time[order]), seed)
    return order


def tie_mask(user: NDArray[np.int32], time: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    """bool [n]: whether a row has the user and time of the row before it (sorted columns). Without times
    all rows of a user are tied."""
    tied = np.zeros(user.shape[0], bool)
    tied[1:] = user[1:] == user[:-1]
    if time is not None:
        tied[1:] &= time[1:] == time[:-1]
    return tied


def reorder_ties(
    order: NDArray[np.int64],
    tied: NDArray[np.bool_],
    seed: int,
    names: NDArray[np.int64] | None = None,
) -> None:
    """Sort each run of tied rows of ``order`` by their hash, in place: the hash of the row number, or of
    ``names`` [n] by row."""
    in_run = tied.copy()
    in_run[:-1] |= tied[1:]
    at = np.flatnonzero(in_run)
    if at.size == 0:
        return
    rows = order[at]
    run = np.cumsum(~tied[at], dtype=np.int64) - 1
    by_hash = np.argsort(tie_hash(rows if names is None else names[rows], seed))
    order[at] = rows[counting_order(by_hash, run, int(run[-1]))]


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Sorted, without repeats: by sorting, which beats hashing on millions of integers."""
    ordered = np.sort(values)
    if ordered.size == 0:
        return ordered
    first: NDArray[np.bool_] = np.append(True, ordered[1:] != ordered[:-1])
    return np.asarray(ordered[first])


def common(asked: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """The distinct values of ``asked`` (the smaller side) that occur in ``others``."""
    wanted = distinct(asked)
    if not wanted.size or not others.size:
        return wanted[:0]
    met = np.zeros(wanted.size, bool)
    for begin in range(0, others.size, _CHUNK):
        part = others[begin : begin + _CHUNK]
        at = np.minimum(np.searchsorted(wanted, part), wanted.size - 1)
        met[at[wanted[at] == part]] = True
    return wanted[met]


def _is_ordered(user: NDArray[np.int32], time: NDArray[np.int64] | None) -> bool:
    if bool(np.any(user[1:] < user[:-1])):
        return False
    return time is None or not bool(np.any((time[1:] < time[:-1]) & (user[1:] == user[:-1])))


def _by_user_and_time(user: NDArray[np.int32], time: NDArray[np.int64] | None) -> NDArray[np.int64]:
    order = None
    if time is not None and time.size:
        since = time.astype(np.uint64) - np.uint64(int(time.min()) % 2**64)  # wraps to the true distance
        order = counting_order(None, since, int(since.max()))
        del since
    return counting_order(order, user, int(user.max(initial=0)))


def counting_order(order: NDArray[np.int64] | None, values: NDArray[Any], largest: int) -> NDArray[np.int64]:
    """Stable sort of ``order`` by ``values[order]`` (0 <= values <= largest), least digit first."""
    if order is None and largest == 0:
        return np.arange(values.shape[0], dtype=np.int64)
    for shift in range(0, largest.bit_length(), _DIGIT):
        digit = (values >> values.dtype.type(shift)).astype(np.uint16)
        step = np.argsort(digit if order is None else digit[order], kind="stable")
        order = step if order is None else order[step]
    assert order is not None
    return order
