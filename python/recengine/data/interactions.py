"""The interaction store: who met what, when; ids mapped once and kept both ways; sorted once.

Rows are sorted by (user, time, tie order). The tie order is decided once, here, so that every view
(sequence, pairs, graph, split) sees the same order: a seeded hash of the original row by default, the
row order only where the caller vouches that rows are in time order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TieOrder = Literal["hash", "rows"]


@dataclass(frozen=True)
class Vocabulary:
    """Original ids by row. ``tokens`` is int64 or a numpy string array, sorted, without repeats."""

    tokens: NDArray[np.generic]

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def rows(self, tokens: NDArray[np.generic]) -> NDArray[np.int64]:
        """Row of each token, -1 where it is unknown."""
        tokens = np.asarray(tokens)
        if len(self) == 0:
            return np.full(tokens.shape, -1, np.int64)
        at = np.searchsorted(self.tokens, tokens)
        at = np.minimum(at, len(self) - 1)
        return np.where(self.tokens[at] == tokens, at, -1).astype(np.int64)


@dataclass(frozen=True)
class Interactions:
    """Columns of equal length n, sorted by (user, time, tie order).

    user, item: int32 [n], rows of the vocabularies. time: int64 [n] or None. weight: float32 [n] or None.
    source: int64 [n], row number in the file the event came from.
    users, items: vocabularies. indptr: int64 [n_users + 1], user u owns rows indptr[u]:indptr[u + 1].
    ties: how equal times were ordered; seed: of the hash.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.int64] | None
    weight: NDArray[np.float32] | None
    source: NDArray[np.int64]
    users: Vocabulary
    items: Vocabulary
    indptr: NDArray[np.int64]
    ties: TieOrder = "hash"
    seed: int = 0

    def __len__(self) -> int:
        return int(self.user.shape[0])

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @classmethod
    def from_arrays(
        cls,
        users: NDArray[np.generic],
        items: NDArray[np.generic],
        times: NDArray[np.int64] | None = None,
        weights: NDArray[np.float32] | None = None,
        *,
        ties: TieOrder = "hash",
        seed: int = 0,
        user_vocabulary: Vocabulary | None = None,
        item_vocabulary: Vocabulary | None = None,
    ) -> Interactions:
        """Build from columns of original ids. Without times the row order is the time order only if
        ties == 'rows'; otherwise the order inside a user is the seeded hash."""
        user_vocabulary = user_vocabulary or Vocabulary(np.unique(users))
        item_vocabulary = item_vocabulary or Vocabulary(np.unique(items))
        user = user_vocabulary.rows(users).astype(np.int32)
        item = item_vocabulary.rows(items).astype(np.int32)
        source = np.arange(user.shape[0], dtype=np.int64)
        key = source if ties == "rows" else tie_hash(source, seed)
        order = np.lexsort((key, user) if times is None else (key, times, user))
        return cls(
            user[order],
            item[order],
            None if times is None else np.asarray(times, np.int64)[order],
            None if weights is None else np.asarray(weights, np.float32)[order],
            source[order],
            user_vocabulary,
            item_vocabulary,
            _indptr(user, len(user_vocabulary)),
            ties,
            seed,
        )

    def select(self, keep: NDArray[np.bool_]) -> Interactions:
        """The rows where ``keep`` holds, same vocabularies, same order."""
        user = self.user[keep]
        return Interactions(
            user,
            self.item[keep],
            None if self.time is None else self.time[keep],
            None if self.weight is None else self.weight[keep],
            self.source[keep],
            self.users,
            self.items,
            _indptr(user, self.n_users),
            self.ties,
            self.seed,
        )


def tie_hash(rows: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A seeded 64-bit mix of row numbers (splitmix64): an order that nothing in the data predicts."""
    with np.errstate(over="ignore"):
        x = rows.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & (2**64 - 1))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _indptr(user: NDArray[np.int32], n_users: int) -> NDArray[np.int64]:
    counts = np.bincount(user, minlength=n_users)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
