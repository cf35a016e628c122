"""Batches for a Feed: step s of epoch e is a function of (seed, e, s), so a run can resume anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recengine.contracts.batch import FeatureBatch, PairBatch, SequenceBatch
from recengine.contracts.model import Feed
from recengine.data import Interactions, reshuffle_ties
from recengine.data.batching import (
    Negatives,
    SequenceArrays,
    n_pair_batches,
    n_sequence_batches,
    pair_batches,
    sequence_batches,
)
from recengine.data.clicks import ClickTable
from recengine.data.masking import masked_batches
from recengine.errors import ConfigError, DataError, UsageError
from recengine.hooks import Host
from recengine.training.negatives import InBatch, Mixed, Popularity, Uniform

Batch = SequenceBatch | PairBatch | FeatureBatch
DEFAULT_ROWS = {"sequences": 128, "pairs": 4096, "features": 2048}
SAMPLERS: dict[str, Any] = {
    "uniform": Uniform,
    "popularity": Popularity,
    "mixed": Mixed,
    "in_batch": InBatch,
}


@dataclass(frozen=True)
class Feeder:
    """Where the loop takes its batches; ``rows`` sequences or pairs each. reshuffle: tied events come in a
    fresh order in every epoch."""

    train: Interactions
    feed: Feed
    rows: int
    seed: int
    negatives: Negatives | None
    reshuffle: bool = False

    @property
    def steps_per_epoch(self) -> int:
        count = n_sequence_batches if self.feed.kind == "sequences" else n_pair_batches
        return count(self.train, self.rows)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """All batches of the epoch, the same in every process."""
        train = reshuffle_ties(self.train, epoch, self.seed) if self.reshuffle else self.train
        if self.feed.kind == "sequences":
            limit = self.feed.max_length or int(self.train.lengths().max(initial=1))
            for sequences in self._sequences(train, limit, epoch):
                yield SequenceBatch(**sequences.tensors())
        else:
            for pairs in pair_batches(train, self.rows, epoch, self.seed, negatives=self.negatives):
                yield PairBatch(**pairs.tensors())

    def _sequences(self, train: Interactions, limit: int, epoch: int) -> Iterator[SequenceArrays]:
        given = (train, self.rows, limit, epoch, self.seed)
        if self.feed.masking is None:
            return sequence_batches(*given, negatives=self.negatives)
        return masked_batches(*given, self.feed.masking, negatives=self.negatives)


@dataclass(frozen=True)
class ClickFeeder:
    """Where the loop takes rows of a click log; ``rows`` each, in an order that (seed, epoch) decides."""

    train: ClickTable
    rows: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.train) // self.rows)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """All batches of the epoch, the same in every process."""
        for arrays in self.train.shuffled(self.rows, epoch, self.seed):
            yield FeatureBatch(**arrays.tensors())


def make_click_feeder(train: ClickTable, feed: Feed, rows: int, seed: int) -> ClickFeeder:
    """The ClickFeeder that answers ``feed``; rows 0: the usual number. Raises UsageError for a model that is
    fed something else."""
    if feed.kind != "features":
        raise UsageError("a click log has no such batches", found=feed.kind, expected="features")
    return ClickFeeder(train, rows or DEFAULT_ROWS["features"], seed)


def make_feeder(
    train: Interactions, feed: Feed, rows: int, seed: int, host: Host, *, reshuffle: bool = False
) -> Feeder:
    """The Feeder that answers ``feed``; rows 0: the usual number for the kind.

    Raises UsageError for batches that interactions cannot give or an unknown sampler, ConfigError when a row
    is to get more negatives than there are items, DataError when there is nothing to learn from.
    """
    if feed.kind == "features":
        raise UsageError("interactions have no such batches", found=feed.kind, expected="sequences or pairs")
    negatives = None
    if feed.negatives:
        negatives = Negatives(_sampler(feed, train, host), feed.negatives, feed.shared)
    made = Feeder(train, feed, rows or DEFAULT_ROWS[feed.kind], seed, negatives, reshuffle)
    if made.steps_per_epoch == 0:
        raise DataError(
            "there is nothing to learn from",
            found=f"{len(train)} training events",
            expected="a user with two events" if feed.kind == "sequences" else "an event",
        )
    return made


def _sampler(feed: Feed, train: Interactions, host: Host) -> Any:
    """A registered sampler, else one of the engine's own."""
    registry = host.registries["sampler"]
    if feed.sampler in registry or feed.sampler not in SAMPLERS:
        return registry.get(feed.sampler).load()(train)
    if feed.negatives > train.n_items > 0 and feed.sampler != "in_batch":
        raise ConfigError(
            "there are fewer items than negatives are asked for",
            where="loss.negatives",
            found=feed.negatives,
            expected=f"at most {train.n_items}, the items of the catalogue",
            fix=f"set loss.negatives to {train.n_items} or less, or take the loss 'softmax'",
        )
    options = {"power": feed.power} if feed.sampler in ("popularity", "mixed") else {}
    return SAMPLERS[feed.sampler](train, **options)
