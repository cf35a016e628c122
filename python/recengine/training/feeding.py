"""Batches for a Feed: step s of epoch e is a function of (seed, e, s), so a run can resume anywhere."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recengine.contracts.batch import PairBatch, SequenceBatch
from recengine.contracts.model import Feed
from recengine.data import Interactions
from recengine.errors import DataError, UsageError

Batch = SequenceBatch | PairBatch
DEFAULT_ROWS = {"sequences": 128, "pairs": 4096}


class Feeder(Protocol):
    """Where the loop takes its batches."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batch(self, epoch: int, step: int) -> Batch:
        """The whole batch of that step, the same in every process."""
        ...


def feeder(train: Interactions, feed: Feed, batch_size: int, seed: int) -> Feeder:
    """The Feeder that answers ``feed``; raises UsageError for a kind this loop cannot feed."""
    if feed.kind not in DEFAULT_ROWS:
        raise UsageError("interactions have no such batches", found=feed.kind, expected="sequences or pairs")
    rows = batch_size or DEFAULT_ROWS[feed.kind]
    negatives = Negatives(train, feed, seed)
    if feed.kind == "sequences":
        return Sequences(train, feed.max_length, rows, negatives, seed)
    return Pairs(train, rows, negatives, seed)


class Negatives:
    """Sampled negatives of a step: uniform over the catalogue or by training counts, with log q."""

    def __init__(self, train: Interactions, feed: Feed, seed: int) -> None:
        self.feed, self.seed, self.n_items = feed, seed, train.n_items
        self.log_q: NDArray[np.float32] | None = None
        if feed.negatives and feed.sampler == "popularity":
            counts = np.bincount(train.item, minlength=train.n_items).astype(np.float64)
            self.cumulative = np.cumsum(counts) / counts.sum()
            with np.errstate(divide="ignore"):
                self.log_q = np.log(counts / counts.sum()).astype(np.float32)
        elif feed.negatives and feed.sampler != "uniform":
            raise UsageError("unknown sampler", found=feed.sampler, expected="uniform or popularity")

    def draw(self, rows: int, epoch: int, step: int) -> tuple[Tensor | None, Tensor | None]:
        """(negatives, log_q): [N] when shared, else [rows, N]; (None, None) when the feed wants none."""
        if not self.feed.negatives:
            return None, None
        shape = (self.feed.negatives,) if self.feed.shared else (rows, self.feed.negatives)
        rng = np.random.default_rng([self.seed, epoch, step, 1])
        if self.log_q is None:
            return torch.from_numpy(rng.integers(0, self.n_items, shape)), None
        drawn = np.searchsorted(self.cumulative, rng.random(shape), side="right")
        drawn = np.minimum(drawn, self.n_items - 1)
        return torch.from_numpy(drawn), torch.from_numpy(self.log_q[drawn])


class Sequences:
    """Packed sequences, a target at every position: the last ``max_length`` + 1 events of each user."""

    def __init__(
        self, train: Interactions, max_length: int | None, rows: int, negatives: Negatives, seed: int
    ) -> None:
        lengths = np.diff(train.indptr)
        self.users = np.flatnonzero(lengths >= 2)
        if self.users.size == 0:
            raise DataError("no user has two events, so there is no next item to learn", found="0 sequences")
        self.train, self.rows, self.negatives, self.seed = train, rows, negatives, seed
        self.limit = int(lengths.max()) if max_length is None else max_length
        self._order: tuple[int, NDArray[np.int64]] = (-1, self.users)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.users.size // self.rows)

    def batch(self, epoch: int, step: int) -> SequenceBatch:
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(self.users))
        users = self._order[1][step * self.rows : (step + 1) * self.rows]
        end = self.train.indptr[users + 1]
        start = np.maximum(self.train.indptr[users], end - self.limit - 1)
        rows, offsets = ranges(start, end - 1)
        negatives, log_q = self.negatives.draw(rows.size, epoch, step)
        return SequenceBatch(
            torch.from_numpy(users),
            torch.from_numpy(self.train.item[rows].astype(np.int64)),
            torch.from_numpy(self.train.item[rows + 1].astype(np.int64)),
            torch.from_numpy(offsets),
            None if self.train.time is None else torch.from_numpy(self.train.time[rows]),
            negatives,
            log_q,
        )


class Pairs:
    """User-item pairs in a fresh order each epoch."""

    def __init__(self, train: Interactions, rows: int, negatives: Negatives, seed: int) -> None:
        if len(train) == 0:
            raise DataError("there is nothing to learn from", found="0 interactions")
        self.train, self.rows, self.negatives, self.seed = train, rows, negatives, seed
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.train) // self.rows)

    def batch(self, epoch: int, step: int) -> PairBatch:
        if self._order[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train))
            self._order = (epoch, order)
        rows = self._order[1][step * self.rows : (step + 1) * self.rows]
        negatives, log_q = self.negatives.draw(rows.size, epoch, step)
        return PairBatch(
            torch.from_numpy(self.train.user[rows].astype(np.int64)),
            torch.from_numpy(self.train.item[rows].astype(np.int64)),
            negatives,
            log_q,
        )


def ranges(start: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The row numbers of all [start, end) one after another, and the offsets [n + 1] where each begins."""
    lengths = end - start
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    rows = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], lengths)
    return rows, offsets
