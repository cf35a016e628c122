"""Training batches: packed, seeded, the same whatever the number of threads. No padding, no prefixes.

A batch is numpy; ``batch.tensors()`` gives torch tensors that share its memory, under the names of the
contract (``SequenceBatch(**batch.tensors())``, ``PairBatch(**batch.tensors())``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recengine.data.interactions import Interactions, as_tensors, ragged_positions
from recengine.data.sampling import BatchSampler, Sampler

_SEQUENCES, _PAIRS = 1, 2  # streams of random numbers that must not meet


@dataclass(frozen=True)
class SequenceArrays:
    """Next-item sequences, packed: ``targets[t]`` is the item after ``items[t]``.

    users int64 [B]; items, targets int64 [T]; offsets int64 [B + 1]; times int64 [T] (of ``items``) or None;
    negatives int64 [T, N] or [N] and log_q float32 alike, when a sampler was given and has them.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    targets: NDArray[np.int64]
    offsets: NDArray[np.int64]
    times: NDArray[np.int64] | None = None
    negatives: NDArray[np.int64] | None = None
    log_q: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return int(self.users.shape[0])

    def tensors(self) -> dict[str, Any]:
        """The arguments of a SequenceBatch."""
        return as_tensors(self)


@dataclass(frozen=True)
class PairArrays:
    """User-item pairs: users, items int64 [B]; negatives int64 [B, N] or [N], log_q float32 alike."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    negatives: NDArray[np.int64] | None = None
    log_q: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return int(self.users.shape[0])

    def tensors(self) -> dict[str, Any]:
        """The arguments of a PairBatch."""
        return as_tensors(self)


@dataclass(frozen=True)
class Negatives:
    """Which negatives a batch gets: ``count`` a row, or one set of ``count`` for the batch. A sampler with
    ``from_batch`` makes the set of the batch's own positives."""

    sampler: Sampler | BatchSampler
    count: int
    shared: bool = False

    def draw(
        self, users: NDArray[np.int64], positives: NDArray[np.int64], generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
        """Ids and log probabilities: [len(users), count], or [count] when shared."""
        if isinstance(self.sampler, BatchSampler):
            return self.sampler.from_batch(positives)
        if self.shared:
            return self.sampler.sample_shared(self.count, generator)
        return self.sampler.sample(users, self.count, generator)


def sequence_batches(
    interactions: Interactions,
    batch_size: int,
    max_length: int,
    epoch: int,
    seed: int,
    *,
    negatives: Negatives | None = None,
    bucket_batches: int = 1,
) -> Iterator[SequenceArrays]:
    """Batches of ``batch_size`` users, each with the most recent ``max_length`` steps of its history.

    Users with fewer than two events have no step and are left out. The order of users is a function of
    (seed, epoch); with ``bucket_batches`` > 1, users are sorted by length within so many batches, so that
    the sequences of a batch are about equally long, and those batches are shuffled.
    """
    generator = _generator(seed, epoch, _SEQUENCES)
    users = generator.permutation(np.flatnonzero(interactions.lengths() >= 2))
    steps = np.minimum(interactions.lengths() - 1, max_length)
    for chosen in _bucketed(users, steps, batch_size, bucket_batches, generator):
        yield _sequences(interactions, chosen, steps[chosen], negatives, generator)


def whole_sequences(
    interactions: Interactions,
    batch_size: int,
    max_length: int,
    epoch: int,
    seed: int,
    *,
    negatives: Negatives | None = None,
) -> Iterator[SequenceArrays]:
    """As ``sequence_batches``, but the newest ``max_length`` events themselves: ``targets`` is ``items``."""
    generator = _generator(seed, epoch, _SEQUENCES)
    users = generator.permutation(np.flatnonzero(interactions.lengths() >= 2))
    counts = np.minimum(interactions.lengths(), max_length)
    for begin in range(0, len(users), batch_size):
        chosen = users[begin : begin + batch_size]
        at, offsets = ragged_positions(interactions.indptr[chosen + 1] - counts[chosen], counts[chosen])
        owners = np.repeat(chosen, counts[chosen])
        items = interactions.item[at].astype(np.int64)
        drawn = (None, None) if negatives is None else negatives.draw(owners, items, generator)
        times = None if interactions.time is None else np.asarray(interactions.time[at])
        yield SequenceArrays(chosen, items, items, offsets, times, *drawn)


def pair_batches(
    interactions: Interactions,
    batch_size: int,
    epoch: int,
    seed: int,
    *,
    negatives: Negatives | None = None,
) -> Iterator[PairArrays]:
    """Every event once, as a pair, in an order that is a function of (seed, epoch)."""
    generator = _generator(seed, epoch, _PAIRS)
    order = generator.permutation(len(interactions))
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        users = interactions.user[rows].astype(np.int64)
        items = interactions.item[rows].astype(np.int64)
        drawn = (None, None) if negatives is None else negatives.draw(users, items, generator)
        yield PairArrays(users, items, *drawn)


def n_sequence_batches(interactions: Interactions, batch_size: int) -> int:
    """How many batches ``sequence_batches`` gives in an epoch."""
    return -(-int((interactions.lengths() >= 2).sum()) // batch_size)


def n_pair_batches(interactions: Interactions, batch_size: int) -> int:
    """How many batches ``pair_batches`` gives in an epoch."""
    return -(-len(interactions) // batch_size)


def _sequences(
    interactions: Interactions,
    users: NDArray[np.int64],
    steps: NDArray[np.int64],
    negatives: Negatives | None,
    generator: np.random.Generator,
) -> SequenceArrays:
    at, offsets = ragged_positions(interactions.indptr[users + 1] - steps - 1, steps)
    targets = interactions.item[at + 1].astype(np.int64)
    drawn = (None, None) if negatives is None else negatives.draw(np.repeat(users, steps), targets, generator)
    return SequenceArrays(
        users,
        interactions.item[at].astype(np.int64),
        targets,
        offsets,
        None if interactions.time is None else np.asarray(interactions.time[at]),
        *drawn,
    )


def _bucketed(
    users: NDArray[np.int64],
    lengths: NDArray[np.int64],
    batch_size: int,
    bucket_batches: int,
    generator: np.random.Generator,
) -> Iterator[NDArray[np.int64]]:
    for begin in range(0, len(users), batch_size * bucket_batches):
        bucket = users[begin : begin + batch_size * bucket_batches]
        if bucket_batches > 1:
            bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        firsts = np.arange(0, len(bucket), batch_size)
        for first in generator.permutation(firsts) if bucket_batches > 1 else firsts:
            yield bucket[first : first + batch_size]


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, stream]))
