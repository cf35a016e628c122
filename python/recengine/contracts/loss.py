"""What a loss takes and what it asks for.

A loss is a small callable with a config. It declares in ``needs`` what of a LossInput it cannot do without.
The model asks the trainer for negatives in its feed and makes the LossInput; it declares in ``supplies`` what
that holds. The trainer refuses a loss that needs more than the model supplies, before the first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from recengine.config import Config

if TYPE_CHECKING:
    from torch import Tensor

    from recengine.contracts.batch import StepContext

Need = Literal[
    "negatives", "catalogue", "item_similarity", "user_groups", "user_items", "popularity", "row_ids"
]

EVERY_NEED: frozenset[Need] = frozenset(get_args(Need))


@dataclass(frozen=True)
class LossInput:
    """One row a prediction.

    anchors: float [R, d], the representation that predicts (a user, a position of a sequence).
    items: float [n_items, d], the item table (or what the propagation made of it).
    positives: int64 [R].
    negatives: int64 [R, N], or [N] shared by all rows; None unless asked for.
    log_q: float32 like negatives, log proposal probability; None for uniform.
    bias: float [n_items] or None.
    row_ids: int64 [R], a stable id of the row (user), for losses that keep state a row.
    popularity: float32 [n_items], training counts.
    user_items: (indptr int64 [n_rows + 1], items int64), what row id r was trained on is
        items[indptr[r]:indptr[r + 1]]; for losses that compare a row with all of its positives.
    """

    anchors: Tensor
    items: Tensor
    positives: Tensor
    negatives: Tensor | None = None
    log_q: Tensor | None = None
    bias: Tensor | None = None
    row_ids: Tensor | None = None
    popularity: Tensor | None = None
    user_items: tuple[Tensor, Tensor] | None = None


class LossConfig(Config):
    """Base of the config of a loss."""

    def idle(self, epochs: int) -> list[str]:
        """What of these settings cannot come into force in a fit of ``epochs`` epochs, a sentence each; a fit
        reports them as findings. Here nothing."""
        return []


class Loss(Protocol):
    """A loss plugin. State (moving averages, dual variables) lives in buffers when it is an nn.Module.

    What the trainer and the models look for besides, where it is there:

    * ``negatives``, ``shared``, ``sampler``, ``power``: how many sampled items a row, whether all rows of a
      batch share them, which sampler draws them, and its exponent (see contracts.model.Feed);
    * ``score``: 'dot' (default) or 'cosine'; a model trained by cosines must rank by cosines;
    * ``prepare(facts)``: called once with the DataFacts before training, to size state by users and items;
    * ``surrogate``: True where the value is not the antiderivative of the gradient (a stopped gradient is
      part of the design), so that the two cannot be compared.

    'row_ids' says which rows belong together as well ('user_groups'): equal ids are one user.
    """

    needs: frozenset[Need]  # 'catalogue', 'item_similarity': of the whole item table, which is always given

    def __call__(self, given: LossInput, context: StepContext) -> Tensor:
        """Mean over rows: a scalar with a gradient."""
        ...
