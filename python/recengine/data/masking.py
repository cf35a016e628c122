"""Hidden events: the batches of models that fill gaps (the cloze task)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recengine.data.batching import Negatives, SequenceArrays, whole_sequences
from recengine.data.interactions import Interactions
from recengine.errors import UsageError

_MASKS = 3  # stream of random numbers, beside those of batching


@dataclass(frozen=True)
class Masking:
    """Which events are hidden. Each with probability ``share``, at least one a sequence; but in a share
    ``last`` of the sequences the newest alone, which is how the model is asked later.

    Of the hidden events, a share ``random`` shows another item instead (any item, uniformly) and a share
    ``kept`` shows itself; the rest shows the hidden item, whose id is the number of items.
    Source: Devlin et al., "BERT", 2019; Sun et al., "BERT4Rec", CIKM 2019.
    """

    share: float = 0.2
    last: float = 0.0
    random: float = 0.1
    kept: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.share <= 1 and 0 <= self.last <= 1):
            raise UsageError("shares lie in (0, 1]", where="Masking", found=f"{self.share}, {self.last}")
        if self.random < 0 or self.kept < 0 or self.random + self.kept > 1:
            raise UsageError(
                "shares of the hidden events", where="Masking", found=f"{self.random} + {self.kept}"
            )

    def hide(
        self, batch: SequenceArrays, n_items: int, generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What is shown and what is wanted (-1: nothing), int64 [T] both, of whole sequences."""
        items, first = batch.items, batch.offsets[:-1]
        draw = generator.random(items.size)
        lowest = np.minimum.reduceat(draw, first)
        chosen = draw < np.maximum(self.share, np.nextafter(lowest, 2))[self._owner(batch)]
        if self.last > 0:
            alone = generator.random(first.size) < self.last
            chosen &= ~alone[self._owner(batch)]
            chosen[batch.offsets[1:][alone] - 1] = True
        shown = items.copy()
        at = np.flatnonzero(chosen)
        fate = generator.random(at.size)
        shown[at[fate >= self.kept]] = n_items
        other = at[(fate >= self.kept) & (fate < self.kept + self.random)]
        shown[other] = generator.integers(0, n_items, other.size)
        return shown, np.where(chosen, items, -1)

    @staticmethod
    def _owner(batch: SequenceArrays) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(batch)), np.diff(batch.offsets))


def masked_batches(
    interactions: Interactions,
    batch_size: int,
    max_length: int,
    epoch: int,
    seed: int,
    masking: Masking,
    *,
    negatives: Negatives | None = None,
) -> Iterator[SequenceArrays]:
    """Batches of ``batch_size`` users, each with its newest ``max_length`` events, some of them hidden:
    ``targets`` holds the item at hidden events, -1 at the others.

    Users with fewer than two events are left out. Users, their order and the hidden events are functions of
    (seed, epoch).
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, epoch, _MASKS]))
    for batch in whole_sequences(interactions, batch_size, max_length, epoch, seed, negatives=negatives):
        shown, wanted = masking.hide(batch, interactions.n_items, generator)
        yield replace(batch, items=shown, targets=wanted)
