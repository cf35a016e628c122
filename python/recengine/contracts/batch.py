"""The shapes in which data reaches a model.

Everything is ragged and packed: ``items`` of all rows one after another, ``offsets`` where each row
begins. No padding, no prefix per position.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class HistoryBatch:
    """Histories to recommend for.

    users: int64 [B], row of the user in the training vocabulary, -1 for somebody new.
    items: int64 [T], the histories one after another, oldest event first.
    offsets: int64 [B + 1], row b is items[offsets[b]:offsets[b + 1]]; empty histories are allowed.
    times: int64 [T] or None, in the data's own unit.
    """

    users: Tensor
    items: Tensor
    offsets: Tensor
    times: Tensor | None = None

    def __len__(self) -> int:
        return int(self.users.shape[0])


@dataclass(frozen=True)
class SequenceBatch:
    """Training sequences, packed: for next-item models ``items`` are the inputs and ``targets`` the
    item after each of them (-1 where there is no loss). With masking (``Feed.masking``), ``items`` is what is
    shown (n_items: a hidden event) and ``targets`` the hidden item (-1 elsewhere).

    users [B], items [T], targets [T], offsets [B + 1], all int64; negatives: int64 [T, N] or [N] when
    the loss asked for them, log_q: float32 like negatives (log of the proposal probability).
    """

    users: Tensor
    items: Tensor
    targets: Tensor
    offsets: Tensor
    times: Tensor | None = None
    negatives: Tensor | None = None
    log_q: Tensor | None = None


@dataclass(frozen=True)
class PairBatch:
    """User-item pairs: users [B], items [B] int64; negatives [B, N] or [N], log_q alike, when asked for."""

    users: Tensor
    items: Tensor
    negatives: Tensor | None = None
    log_q: Tensor | None = None


@dataclass(frozen=True)
class FeatureBatch:
    """Rows of a click log: features by name (int64 [B] categorical, (values, offsets) multi-valued,
    float32 [B] numeric), labels float32 [B]."""

    features: dict[str, Tensor | tuple[Tensor, Tensor]]
    labels: Tensor
    weights: Tensor | None = None


@dataclass
class StepContext:
    """Where training stands when a batch is taken: epoch and step from 0, totals where known."""

    epoch: int = 0
    step: int = 0
    epochs: int = 1
    steps_per_epoch: int = 1
    extras: dict[str, object] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        """Share of the training done, in [0, 1]."""
        return (self.epoch + self.step / max(1, self.steps_per_epoch)) / max(1, self.epochs)
