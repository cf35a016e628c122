"""The interaction store: who met what, when; ids mapped once and kept both ways; sorted once.

Rows are sorted by (user, time, tie order). The tie order is decided once, here, so that every view
(sequence, pairs, graph, split) sees the same order: a seeded hash of the original row by default, the
row order only where the caller vouches that rows are in time order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from recengine.data.frames import columns_of_frame
from recengine.data.ordering import TieOrder, canonical_order, tie_hash
from recengine.data.storage import damaged, read_columns, write_columns
from recengine.data.vocabulary import Vocabulary, index_tokens, rows_within
from recengine.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Histories", "Interactions", "TieOrder", "Vocabulary", "tie_hash"]

CSRValues = Literal["ones", "counts", "weights"]
_STORED = ("user", "item", "time", "weight", "source", "indptr", "part", "item_titles")


@dataclass(frozen=True)
class Histories:
    """Packed histories of some users, in numpy: the arrays of a HistoryBatch.

    users: int64 [B]. items: int64 [T], oldest first. offsets: int64 [B + 1]. times: int64 [T] or None.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    offsets: NDArray[np.int64]
    times: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self.users.shape[0])

    def tensors(self) -> dict[str, Any]:
        """The same as torch tensors by field name: ``HistoryBatch(**histories.tensors())``."""
        return as_tensors(self)


@dataclass(frozen=True, repr=False)
class Interactions:
    """Columns of equal length n, sorted by (user, time, tie order).

    user, item: int32 [n], rows of the vocabularies. time: int64 [n] or None. weight: float32 [n] or None.
    source: int64 [n], row number in the file the event came from.
    users, items: vocabularies. indptr: int64 [n_users + 1], user u owns rows indptr[u]:indptr[u + 1].
    ties: how equal times were ordered; seed: of the hash.
    part: int8 [n] or None, 0 train, 1 validation, 2 test, where the source came already divided.
    item_titles: str [n_items] or None, names for people to read.
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
    part: NDArray[np.int8] | None = None
    item_titles: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return int(self.user.shape[0])

    def __repr__(self) -> str:
        order = (
            "times" if self.time is not None else "rows in time order" if self.ties == "rows" else "no order"
        )
        return f"Interactions({len(self):,} events, {self.n_users:,} users, {self.n_items:,} items, {order})"

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @property
    def is_ordered(self) -> bool:
        """Whether the order inside a user means time: there are times, or the rows were vouched for."""
        return self.time is not None or self.ties == "rows"

    @classmethod
    def from_arrays(
        cls,
        users: Any,
        items: Any,
        times: Any | None = None,
        weights: Any | None = None,
        *,
        ties: TieOrder = "hash",
        seed: int = 0,
        user_vocabulary: Vocabulary | None = None,
        item_vocabulary: Vocabulary | None = None,
        part: Any | None = None,
    ) -> Interactions:
        """Build from columns of original ids (integers or strings) of one length.

        Without times the row order is the time order only if ties == 'rows'; otherwise the order inside a
        user is the seeded hash. Raises DataError for columns of unequal length, ids of another kind, times
        that are no whole numbers, and ids missing from a given vocabulary.
        """
        _check_lengths(users=users, items=items, times=times, weights=weights, part=part)
        user_vocabulary, user = _indexed(users, user_vocabulary, "user")
        item_vocabulary, item = _indexed(items, item_vocabulary, "item")
        return cls.from_rows(
            user,
            item,
            _whole_times(times),
            None if weights is None else np.asarray(weights, np.float32),
            user_vocabulary,
            item_vocabulary,
            ties=ties,
            seed=seed,
            part=None if part is None else np.asarray(part, np.int8),
        )

    @classmethod
    def from_rows(
        cls,
        user: NDArray[np.int32],
        item: NDArray[np.int32],
        time: NDArray[np.int64] | None,
        weight: NDArray[np.float32] | None,
        users: Vocabulary,
        items: Vocabulary,
        *,
        ties: TieOrder = "hash",
        seed: int = 0,
        part: NDArray[np.int8] | None = None,
    ) -> Interactions:
        """Build from rows of vocabularies (not checked)."""
        order = canonical_order(user, time, ties, seed)
        return cls(
            user[order],
            item[order],
            None if time is None else time[order],
            None if weight is None else weight[order],
            order,
            users,
            items,
            _indptr(user, len(users)),
            ties,
            seed,
            None if part is None else part[order],
        )

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        weight: str | None = None,
        order: TieOrder = "hash",
        seed: int = 0,
    ) -> Interactions:
        """Build from a pandas, polars or Arrow table. Columns that are not named are guessed by their names
        (``recengine.data.columns``). Raises DataError naming column, row, what was found and the fix."""
        names = {"user": user, "item": item, "time": time, "weight": weight}
        return cls.from_rows(*columns_of_frame(frame, names), ties=order, seed=seed)

    @classmethod
    def from_csr(cls, matrix: Any, *, seed: int = 0) -> Interactions:
        """Build from a scipy sparse user-item matrix (the layout of implicit): ids are row and column
        numbers, stored zeros are left out, values become weights. Raises DataError for values that are
        not finite."""
        coo = matrix.tocoo()
        keep = coo.data != 0
        weights = coo.data[keep].astype(np.float32)
        if not np.isfinite(weights).all():
            raise DataError("the matrix holds values that are not finite", fix="remove NaN and infinity")
        n_users, n_items = coo.shape
        return cls.from_rows(
            coo.row[keep].astype(np.int32),
            coo.col[keep].astype(np.int32),
            None,
            weights,
            Vocabulary(np.arange(n_users, dtype=np.int64)),
            Vocabulary(np.arange(n_items, dtype=np.int64)),
            seed=seed,
        )

    def select(self, keep: NDArray[Any]) -> Interactions:
        """The rows where ``keep`` holds (bool [n]) or that it lists (ascending positions); same
        vocabularies, same order."""
        user = self.user[keep]
        return replace(
            self,
            user=user,
            item=self.item[keep],
            time=None if self.time is None else self.time[keep],
            weight=None if self.weight is None else self.weight[keep],
            source=self.source[keep],
            indptr=_indptr(user, self.n_users),
            part=None if self.part is None else self.part[keep],
        )

    def compact(self) -> Interactions:
        """The same events over vocabularies without the users and items that no event names."""
        users_kept = np.bincount(self.user, minlength=self.n_users) > 0
        items_kept = np.bincount(self.item, minlength=self.n_items) > 0
        if users_kept.all() and items_kept.all():
            return self
        user = (np.cumsum(users_kept, dtype=np.int32) - np.int32(1))[self.user]
        item = (np.cumsum(items_kept, dtype=np.int32) - np.int32(1))[self.item]
        return replace(
            self,
            user=user,
            item=item,
            users=Vocabulary(self.users.tokens[users_kept]),
            items=Vocabulary(self.items.tokens[items_kept]),
            indptr=_indptr(user, int(users_kept.sum())),
            item_titles=None if self.item_titles is None else self.item_titles[items_kept],
        )

    def with_titles(self, titles: Any) -> Interactions:
        """The same with a name for each item (str [n_items], in vocabulary order)."""
        names = np.asarray(titles, np.str_)
        if names.shape != (self.n_items,):
            raise DataError("one title an item is needed", found=names.shape, expected=(self.n_items,))
        return replace(self, item_titles=names)

    def lengths(self) -> NDArray[np.int64]:
        """Events of each user, int64 [n_users]."""
        return np.diff(self.indptr)

    def popularity(self) -> NDArray[np.int64]:
        """Events of each item, int64 [n_items]."""
        return np.bincount(self.item, minlength=self.n_items).astype(np.int64, copy=False)

    def history(self, users: Any, *, max_length: int | None = None) -> Histories:
        """Packed histories of ``users`` (rows; -1 or a user without events: an empty history), the most
        recent ``max_length`` events each, oldest first."""
        rows = np.asarray(users, np.int64)
        known = rows >= 0
        safe = np.where(known, rows, 0)
        begin, end = (self.indptr[safe], self.indptr[safe + 1]) if self.n_users else (safe, safe)
        count = np.where(known, end - begin, 0)
        if max_length is not None:
            count = np.minimum(count, max_length)
        at, offsets = ragged_positions(end - count, count)
        return Histories(
            rows,
            self.item[at].astype(np.int64),
            offsets,
            None if self.time is None else self.time[at],
        )

    def csr(self, values: CSRValues = "ones") -> csr_matrix:
        """scipy CSR [n_users, n_items] float32, column numbers sorted, repeated pairs merged: 1, how often
        the pair occurs, or the sum of its weights (1 each where there are none)."""
        from scipy.sparse import csr_matrix

        data = (
            np.ones(len(self), np.float32)
            if values != "weights" or self.weight is None
            else np.array(self.weight, np.float32)
        )
        matrix = csr_matrix(
            (data, np.array(self.item), self.indptr.copy()), shape=(self.n_users, self.n_items)
        )
        matrix.sum_duplicates()
        if values == "ones":
            matrix.data[:] = 1.0
        return matrix

    def fingerprint(self) -> str:
        """sha256 (hex) of the content: vocabularies, columns and their order; not of the file."""
        digest = hashlib.sha256()
        for vocabulary in (self.users, self.items):
            _digest_tokens(digest, vocabulary)
        for name in ("user", "item", "time", "weight", "part"):
            column = getattr(self, name)
            digest.update(f"{name}:{column is not None}:{len(self)};".encode())
            if column is not None:
                digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write a folder of .npy columns, all of it or nothing. Raises DataError when ``path`` holds
        something else."""
        columns = {name: getattr(self, name) for name in _STORED}
        columns |= {"users": self.users.tokens, "items": self.items.tokens}
        present = {name: column for name, column in columns.items() if column is not None}
        return write_columns(Path(path), present, {"rows": len(self), "ties": self.ties, "seed": self.seed})

    @classmethod
    def load(cls, path: str | Path) -> Interactions:
        """Read a folder that ``save`` wrote; memory-mapped when it is large. Raises DataError when it is
        missing, of a later version or damaged."""
        columns, facts = read_columns(Path(path))
        given: dict[str, Any] = {name: columns.get(name) for name in _STORED}
        if len({len(given[name]) for name in ("user", "item", "source")} | {facts["rows"]}) != 1:
            raise damaged(Path(path), "columns differ in length")
        return cls(
            **given,
            users=Vocabulary(columns["users"]),
            items=Vocabulary(columns["items"]),
            ties=facts["ties"],
            seed=facts["seed"],
        )


def as_tensors(packed: Any) -> dict[str, Any]:
    """The numpy fields of a dataclass as torch tensors that share memory, None kept."""
    import torch

    given = {name: getattr(packed, name) for name in packed.__dataclass_fields__}
    return {
        name: None if value is None else torch.from_numpy(np.ascontiguousarray(value))
        for name, value in given.items()
    }


def ragged_positions(
    begin: NDArray[np.int64], count: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions begin[b], begin[b] + 1, ... (count[b] of them) one after another, and offsets [B + 1]."""
    offsets = np.zeros(count.shape[0] + 1, np.int64)
    np.cumsum(count, out=offsets[1:])
    shift = np.repeat(begin - offsets[:-1], count)
    return shift + np.arange(int(offsets[-1]), dtype=np.int64), offsets


def _indexed(tokens: Any, vocabulary: Vocabulary | None, column: str) -> tuple[Vocabulary, NDArray[np.int32]]:
    if vocabulary is None:
        return index_tokens(tokens)
    return vocabulary, rows_within(vocabulary, tokens, column)


def _check_lengths(**columns: Any) -> None:
    lengths = {name: len(column) for name, column in columns.items() if column is not None}
    if len(set(lengths.values())) > 1:
        raise DataError("the columns differ in length", found=lengths, expected="one length")


def _whole_times(times: Any | None) -> NDArray[np.int64] | None:
    if times is None:
        return None
    given = np.asarray(times)
    if given.dtype.kind not in "iu":
        raise DataError(
            "times must be whole numbers",
            where="column 'time'",
            found=f"an array of {given.dtype}",
            expected="int64 in any one unit, such as seconds",
        )
    return given.astype(np.int64, copy=False)


def _digest_tokens(digest: Any, vocabulary: Vocabulary) -> None:
    if vocabulary.is_text:
        encoded = [str(token).encode() for token in vocabulary.tokens]
        digest.update(np.array([len(token) for token in encoded], np.int64).tobytes())
        digest.update(b"".join(encoded))
    else:
        digest.update(np.ascontiguousarray(vocabulary.tokens, np.int64).data)


def _indptr(user: NDArray[np.int32], n_users: int) -> NDArray[np.int64]:
    counts = np.bincount(user, minlength=n_users)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
