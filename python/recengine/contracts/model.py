"""What a model is, and what it may be able to do.

A model is built from its config and the facts of the data (``Model(config, facts)``). What it can do
is said by small protocols rather than a class tree; a class implements as many as fit:

* to be fitted: ``Trainable`` (gradient steps over batches it names) or ``DirectFit`` (solves itself);
  one that takes any registered loss has ``attach_loss(loss)`` and says in ``supplies``, a frozenset of
  contracts.loss.Need, what the LossInput it makes holds (where it does not say, its feed alone is looked at);
* to answer: ``Represents`` (vectors; gets the fused top-k for free), ``Appends`` (those, event by event),
  ``ScoresItems`` (dense scores), ``Generates`` (item ids, as generators of item codes do),
  ``PredictsClicks`` (a probability a row).

The evaluator and ``recommend`` take the strongest that a model has: Represents, ScoresItems, Generates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from recengine.config import Config

if TYPE_CHECKING:
    from torch import Tensor

    from recengine.contracts.batch import FeatureBatch, HistoryBatch, PairBatch, SequenceBatch, StepContext
    from recengine.data.interactions import Interactions
    from recengine.data.masking import Masking


@dataclass(frozen=True)
class DataFacts:
    """What a model must know of the data before it sees a row of it."""

    n_users: int
    n_items: int
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Feed:
    """What a Trainable asks of the trainer.

    kind: 'sequences' (SequenceBatch), 'pairs' (PairBatch) or 'features' (FeatureBatch).
    max_length: longest sequence fed (the most recent events are kept).
    negatives: how many sampled negatives a row (0: none); shared: one set for the whole batch.
    sampler: name of a registered sampler, or of one of the engine's: 'uniform', 'popularity', 'mixed',
        'in_batch'.
    power: exponent of the popularity in the engine's 'popularity' and 'mixed'.
    masking: sequences with hidden events in place of next-item steps (recengine.data.Masking).
    """

    kind: Literal["sequences", "pairs", "features"]
    max_length: int | None = None
    negatives: int = 0
    shared: bool = False
    sampler: str = "uniform"
    masking: Masking | None = None
    power: float = 1.0


@runtime_checkable
class Trainable(Protocol):
    """Fitted by the engine's training loop; also a ``torch.nn.Module``."""

    def feed(self) -> Feed:
        """Which batches it wants."""
        ...

    def training_loss(self, batch: SequenceBatch | PairBatch | FeatureBatch, context: StepContext) -> Tensor:
        """Mean loss of the batch: a scalar with a gradient."""
        ...


@runtime_checkable
class LearnsFromGraph(Protocol):
    """Needs the training interactions themselves, beside the batches: as a graph, as histories,
    or to tell who has any.

    Called once after the model was built, before training and when a saved run is loaded. What is kept of
    them must not be part of the state_dict (it is derived from the split, which a run saves).
    """

    def attach_data(self, train: Interactions) -> None:
        """Take what is needed of ``train``."""
        ...


@runtime_checkable
class DirectFit(Protocol):
    """Fits itself in one call (closed form, counting, alternating least squares)."""

    def fit_directly(self, train: Interactions, seed: int, progress: Any) -> None:
        """Learn from ``train``. ``progress(done, total, note)`` may be called to report."""
        ...


@runtime_checkable
class Represents(Protocol):
    """Score of an item = user vector . item vector (+ bias)."""

    def user_vectors(self, histories: HistoryBatch) -> Tensor:
        """float [B, d]; a new user (users == -1) is represented by the history alone."""
        ...

    def item_vectors(self) -> Tensor:
        """float [n_items, d]."""
        ...

    def item_bias(self) -> Tensor | None:
        """float [n_items], or None."""
        ...


@runtime_checkable
class Appends(Represents, Protocol):
    """Takes a person's events one at a time, without the history before them.

    A state is a dict of tensors with one row a person. After n events it stands for the newest
    ``recengine.nn.ragged.window_of(n, window)``, and ``user_vectors`` reads the same events of a history, so
    both give the same vector. ``recengine.serving.Sessions`` keeps states.
    """

    @property
    def window(self) -> int:
        """Most events that a state stands for."""
        ...

    def empty_state(self, count: int) -> dict[str, Tensor]:
        """The state of ``count`` empty histories; raises UsageError where the settings rule it out."""
        ...

    def append(self, state: dict[str, Tensor], items: Tensor) -> Tensor:
        """User vectors float [B, d] after one more event each, int64 [B]; ``state`` takes the events in."""
        ...

    def read(self, items: Tensor, offsets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """State and user vectors float [B, d] of whole histories at once: items int64 [T] packed, offsets
        int64 [B + 1], none empty, none longer than ``window``. The same as ``append`` event by event."""
        ...


@runtime_checkable
class ScoresItems(Protocol):
    """Scores the whole catalogue where no dot product can."""

    def score_items(self, histories: HistoryBatch) -> Tensor:
        """float [B, n_items]; larger is better."""
        ...


@runtime_checkable
class Generates(Protocol):
    """Writes item ids directly."""

    def generate(self, histories: HistoryBatch, k: int) -> tuple[Tensor, Tensor]:
        """ids int64 [B, k] (-1 where fewer exist) and scores float [B, k], best first."""
        ...


@runtime_checkable
class PredictsClicks(Protocol):
    """Probability of the label for each row of features."""

    def predict(self, batch: FeatureBatch) -> Tensor:
        """float [B] in [0, 1]."""
        ...


class ModelConfig(Config):
    """Base of the config of a model."""
