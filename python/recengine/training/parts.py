"""The part of a batch that one process works on, and the weight of that part in the whole batch's mean."""

from __future__ import annotations

from torch import Tensor

from recengine.contracts.batch import FeatureBatch, PairBatch, SequenceBatch
from recengine.training.feeding import Batch


def loss_rows(batch: Batch) -> int:
    """Over how many rows the batch's mean loss is taken."""
    if isinstance(batch, SequenceBatch):
        return int((batch.targets >= 0).sum())
    return len_of(batch)


def part(batch: Batch, rank: int, world: int) -> tuple[Batch, float]:
    """Part ``rank`` of ``world`` and the factor f for its mean loss: mean over parts of f x loss is the
    mean loss of the whole batch, so averaged gradients are those of one process on the whole batch.

    A part may be empty (fewer rows than processes): then f is 0 and the batch keeps its first row, since
    every process must take part in the step.
    """
    if world == 1:
        return batch, 1.0
    taken = _share(batch, rank, world)
    if taken is None:
        first = _share(batch, 0, len_of(batch))
        assert first is not None
        return first, 0.0
    return taken, world * loss_rows(taken) / max(1, loss_rows(batch))


def len_of(batch: Batch) -> int:
    """Sequences, pairs or rows in the batch."""
    return int((batch.labels if isinstance(batch, FeatureBatch) else batch.users).shape[0])


def _share(batch: Batch, rank: int, world: int) -> Batch | None:
    if isinstance(batch, SequenceBatch):
        return _sequences(batch, rank, world)
    if isinstance(batch, FeatureBatch):
        return _features(batch, rank, world)
    return _pairs(batch, rank, world)


def _bounds(count: int, rank: int, world: int) -> tuple[int, int]:
    return count * rank // world, count * (rank + 1) // world


def _sequences(batch: SequenceBatch, rank: int, world: int) -> SequenceBatch | None:
    low, high = _bounds(len_of(batch), rank, world)
    if low == high:
        return None
    a, b = int(batch.offsets[low]), int(batch.offsets[high])
    return SequenceBatch(
        batch.users[low:high],
        batch.items[a:b],
        batch.targets[a:b],
        batch.offsets[low : high + 1] - a,
        None if batch.times is None else batch.times[a:b],
        _rows(batch.negatives, a, b),
        _rows(batch.log_q, a, b),
    )


def _pairs(batch: PairBatch, rank: int, world: int) -> PairBatch | None:
    a, b = _bounds(len_of(batch), rank, world)
    if a == b:
        return None
    return PairBatch(
        batch.users[a:b], batch.items[a:b], _rows(batch.negatives, a, b), _rows(batch.log_q, a, b)
    )


def _features(batch: FeatureBatch, rank: int, world: int) -> FeatureBatch | None:
    a, b = _bounds(len_of(batch), rank, world)
    if a == b:
        return None
    kept: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
    for name, column in batch.features.items():
        if isinstance(column, Tensor):
            kept[name] = column[a:b]
        else:
            values, offsets = column
            kept[name] = values[int(offsets[a]) : int(offsets[b])], offsets[a : b + 1] - offsets[a]
    return FeatureBatch(kept, batch.labels[a:b], None if batch.weights is None else batch.weights[a:b])


def _rows(values: Tensor | None, a: int, b: int) -> Tensor | None:
    """Rows a to b of per-row values; what all rows share stays whole."""
    return values if values is None or values.ndim == 1 else values[a:b]
