"""Original ids and their rows, kept both ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recengine.data.ordering import distinct
from recengine.errors import DataError

_CHUNK = 1 << 20
LARGEST_ROW = 2**31 - 1


@dataclass(frozen=True)
class Vocabulary:
    """Original ids by row. ``tokens`` is int64 or a numpy string array, sorted, without repeats."""

    tokens: NDArray[Any]

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def is_text(self) -> bool:
        """Whether the ids are strings."""
        return self.tokens.dtype.kind in "UT"

    def rows(self, tokens: Any) -> NDArray[np.int64]:
        """Row of each token, -1 where it is unknown."""
        tokens = _as_tokens(np.asarray(tokens))
        if len(self) == 0 or (tokens.dtype.kind in "UT") != self.is_text:
            return np.full(tokens.shape, -1, np.int64)
        at = np.minimum(np.searchsorted(self.tokens, tokens), len(self) - 1)
        return np.where(self.tokens[at] == tokens, at, -1).astype(np.int64)


def index_tokens(tokens: Any) -> tuple[Vocabulary, NDArray[np.int32]]:
    """The vocabulary of a column of ids, and the row of each entry (int32).

    Integers in a narrow range go through a table of the range; others through one sort of the distinct
    ids. Raises DataError for ids that are neither integers nor strings.
    """
    tokens = _as_tokens(np.asarray(tokens))
    if tokens.dtype.kind == "i" and tokens.size:
        low, high = int(tokens.min()), int(tokens.max())
        if high - low < max(4 * tokens.size, _CHUNK):
            return _index_by_table(tokens, low, high)
    vocabulary = Vocabulary(distinct(tokens))
    return vocabulary, rows_within(vocabulary, tokens, "id")


def rows_within(vocabulary: Vocabulary, tokens: Any, column: str) -> NDArray[np.int32]:
    """Rows (int32) of tokens that must all be known; raises DataError naming the first that is not."""
    tokens = _as_tokens(np.asarray(tokens))
    _check_size(len(vocabulary))
    rows = np.empty(tokens.shape, np.int32)
    for begin in range(0, tokens.shape[0], _CHUNK):
        part = vocabulary.rows(tokens[begin : begin + _CHUNK])
        if part.size and part.min() < 0:
            at = begin + int(np.argmin(part))
            raise DataError(
                "an id is not in the vocabulary",
                where=f"column '{column}', row {at}",
                found=repr(tokens[at].item()),
                expected=f"one of the {len(vocabulary)} ids of the vocabulary",
                fix="leave such rows out, or build the vocabulary from all parts together",
            )
        rows[begin : begin + _CHUNK] = part
    return rows


def _index_by_table(tokens: NDArray[Any], low: int, high: int) -> tuple[Vocabulary, NDArray[np.int32]]:
    present = np.zeros(high - low + 1, bool)
    for begin in range(0, tokens.shape[0], _CHUNK):
        present[tokens[begin : begin + _CHUNK] - low] = True
    known = np.flatnonzero(present) + low
    _check_size(known.shape[0])
    row_of = np.cumsum(present, dtype=np.int32) - np.int32(1)
    rows = np.empty(tokens.shape, np.int32)
    for begin in range(0, tokens.shape[0], _CHUNK):
        rows[begin : begin + _CHUNK] = row_of[tokens[begin : begin + _CHUNK] - low]
    return Vocabulary(known.astype(np.int64)), rows


def _as_tokens(tokens: NDArray[Any]) -> NDArray[Any]:
    kind = tokens.dtype.kind
    if kind == "i":
        return tokens if tokens.dtype == np.int64 else tokens.astype(np.int64)
    if kind in "UT":
        return tokens
    if kind in "ub":
        if kind == "u" and tokens.size and int(tokens.max()) > np.iinfo(np.int64).max:
            raise DataError(
                "an id does not fit into 64 bits with sign",
                found=int(tokens.max()),
                expected=f"at most {np.iinfo(np.int64).max}",
                fix="pass the ids as text",
            )
        return tokens.astype(np.int64)
    if kind == "O" and all(isinstance(token, str) for token in tokens.flat):
        return tokens.astype(np.str_)
    if kind == "f" and tokens.size == 0:
        return tokens.astype(np.int64)
    raise DataError(
        "ids must be all integers or all strings",
        found=f"an array of {tokens.dtype}",
        expected="int64 or str",
        fix="convert the column; missing ids must be left out",
    )


def _check_size(n: int) -> None:
    if n > LARGEST_ROW:
        raise DataError("too many distinct ids", found=n, expected=f"at most {LARGEST_ROW}")
