"""Interactions as a sparse user-item matrix: what closed-form and factorisation models learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recengine.data.interactions import Interactions


@dataclass(frozen=True)
class PairMatrix:
    """Distinct (row, column) pairs in CSR, columns ascending inside a row.

    indptr: int64 [n_rows + 1]. columns: int32 [nnz]. counts: float32 [nnz], how often each pair occurred.
    """

    indptr: NDArray[np.int64]
    columns: NDArray[np.int32]
    counts: NDArray[np.float32]
    n_columns: int

    @property
    def n_rows(self) -> int:
        return int(self.indptr.shape[0]) - 1

    def __len__(self) -> int:
        return int(self.columns.shape[0])

    def rows(self) -> NDArray[np.int64]:
        """int64 [nnz], the row of each pair."""
        return np.repeat(np.arange(self.n_rows, dtype=np.int64), np.diff(self.indptr))

    def transposed(self) -> PairMatrix:
        """The same pairs by column: rows and columns exchanged."""
        order = np.argsort(self.columns, kind="stable")
        return PairMatrix(
            _indptr(self.columns, self.n_columns),
            self.rows()[order].astype(np.int32),
            self.counts[order],
            self.n_rows,
        )


def pair_matrix(train: Interactions) -> PairMatrix:
    """The distinct pairs of ``train``, users as rows; repeated events become counts."""
    return collect_pairs(train.user, train.item, train.n_users, train.n_items)


def collect_pairs(
    rows: NDArray[np.integer], columns: NDArray[np.integer], n_rows: int, n_columns: int
) -> PairMatrix:
    """The distinct pairs among (rows[t], columns[t]), in any order."""
    key = rows.astype(np.int64) * n_columns + columns
    if key.size and np.any(key[1:] < key[:-1]):
        key = np.sort(key)
    first = np.flatnonzero(np.diff(key, prepend=-1))
    counts = np.diff(first, append=key.size).astype(np.float32)
    row, column = np.divmod(key[first], max(1, n_columns))
    return PairMatrix(_indptr(row, n_rows), column.astype(np.int32), counts, n_columns)


def _indptr(rows: NDArray[np.integer], n_rows: int) -> NDArray[np.int64]:
    counts = np.bincount(rows, minlength=n_rows)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
