"""What models of user-item pairs share: two tables, a loss that is plugged in, answers for newcomers."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.contracts.batch import HistoryBatch, PairBatch, StepContext
from recengine.contracts.loss import EVERY_NEED, LossInput
from recengine.contracts.model import Feed
from recengine.data import Interactions
from recengine.errors import ConfigError
from recengine.nn.unit import unit_rows
from recengine.ops.histories import distinct_rows


def _of_cosines(loss: Any) -> bool:
    return getattr(loss, "score", "dot") == "cosine"


class PairModel(nn.Module):
    """score(u, i) = <x_u, y_i>, or its cosine where the loss is one of cosines.

    A subclass says in ``tables()`` what the vectors x [n_users, d] and y [n_items, d] are; here they are the
    learned tables themselves. Any registered loss can be attached. Somebody new, and a user without a
    training event (whose own vector stayed as it was drawn), is the mean of the vectors of the distinct items
    of the history; an empty history is the zero vector, for which no item is preferred.

    init_std: spread of the initial normal values. l2: pull on the rows of a batch, l2 / 2 times the mean over
    rows of |x_u|^2 + |y_i|^2 of the learned tables. norm_power: where the loss is one of cosines, items are
    ranked by cos(x_u, y_i) |y_i|^norm_power: the length of a vector grows with the item's popularity, of
    which the cosine knows nothing.
    """

    supplies = EVERY_NEED

    def __init__(
        self,
        n_users: int,
        n_items: int,
        dim: int,
        init_std: float,
        l2: float = 0.0,
        *,
        norm_power: float = 0.0,
    ) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(n_users, dim), nn.Embedding(n_items, dim)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=init_std)
        self.l2, self.norm_power = l2, norm_power
        self.loss: Any = None
        self._trained: Tensor | None = None
        self._kept: tuple[tuple[object, ...], tuple[Tensor, Tensor]] | None = None

    def attach_loss(self, loss: Any) -> None:
        """Take the loss that the settings name. Raises ConfigError for a norm_power beside a loss of dot
        products, in which the whole length counts."""
        if self.norm_power and not _of_cosines(loss):
            raise ConfigError(
                "this loss ranks by the dot product, not by the cosine",
                where="model.norm_power",
                found=self.norm_power,
                expected="0, or a loss of cosines such as 'sl'",
            )
        self.loss = loss

    def attach_data(self, train: Interactions) -> None:
        """Take who has training events. See contracts.model.LearnsFromGraph."""
        self._trained = torch.from_numpy(train.lengths() > 0)
        self.forget_answers()

    def feed(self) -> Feed:
        """Pairs, with the negatives that the loss asks for."""
        return Feed(
            "pairs",
            negatives=getattr(self.loss, "negatives", 0),
            shared=getattr(self.loss, "shared", False),
            sampler=getattr(self.loss, "sampler", "uniform"),
            power=getattr(self.loss, "power", 1.0),
        )

    def train(self, mode: bool = True) -> Self:
        """As in torch.nn.Module; the answers made are forgotten, since weights are about to change (a fused
        optimiser changes them without counting it as a version)."""
        self.forget_answers()
        return super().train(mode)

    def forget_answers(self) -> None:
        """The vectors to rank by are made anew when they are next asked for."""
        self._kept = None

    def tables(self) -> tuple[Tensor, Tensor]:
        """float [n_users, d] and [n_items, d], with gradients."""
        return self.users.weight, self.items.weight

    def training_loss(self, batch: PairBatch, context: StepContext) -> Tensor:
        """The loss of the batch, and the pull."""
        self.forget_answers()
        users, items = self.tables()
        return self.ranking_loss(users, items, batch, context) + self.pull(batch)

    def ranking_loss(self, users: Tensor, items: Tensor, batch: PairBatch, context: StepContext) -> Tensor:
        """The attached loss of the batch, with x = ``users`` and y = ``items``."""
        popularity, history = context.extras.get("popularity"), context.extras.get("user_items")
        given = LossInput(
            functional.embedding(batch.users, users),
            items,
            batch.items,
            batch.negatives,
            batch.log_q,
            row_ids=batch.users,
            popularity=popularity if isinstance(popularity, Tensor) else None,
            user_items=history if isinstance(history, tuple) else None,
        )
        loss: Tensor = self.loss(given, context)
        return loss

    def pull(self, batch: PairBatch) -> Tensor:
        """l2 / 2 (|x_u|^2 + |y_i|^2), mean over rows."""
        if self.l2 == 0:
            return self.items.weight.new_zeros(())
        rows = self.users(batch.users).square().sum() + self.items(batch.items).square().sum()
        total: Tensor = 0.5 * self.l2 * rows / max(1, batch.users.shape[0])
        return total

    def trained(self, histories: HistoryBatch) -> Tensor:
        """bool [B]: users with a vector of their own, which is every known one before ``attach_data``."""
        known = histories.users >= 0
        if self._trained is None:
            return known
        return known & self._trained.to(known.device)[histories.users.clamp(min=0)]

    def user_vectors(self, histories: HistoryBatch) -> Tensor:
        """float [B, d]; users who are new or without a training event by the mean vector of their items."""
        users, items = self._answers()
        device = items.device
        known = self.trained(histories).to(device)
        vectors = users[histories.users.clamp(min=0).to(device)]
        if bool(known.all()):
            return vectors
        distinct, offsets, _ = distinct_rows(histories.items, histories.offsets)
        means = functional.embedding_bag(distinct.to(device), items, offsets[:-1].to(device), mode="mean")
        return torch.where(known[:, None], vectors, means)

    def item_vectors(self) -> Tensor:
        """float [n_items, d]."""
        return self._answers()[1]

    def item_bias(self) -> Tensor | None:
        return None

    def _answers(self) -> tuple[Tensor, Tensor]:
        """The tables to rank by, made once for a state of the parameters."""
        state = tuple((p.device, p.data_ptr(), p._version) for p in self.parameters())
        if self._kept is None or self._kept[0] != state:
            with torch.no_grad():
                users, items = self.tables()
                if _of_cosines(self.loss):
                    lengths = torch.linalg.vector_norm(items, dim=1, keepdim=True)
                    users, items = unit_rows(users), unit_rows(items)
                    if self.norm_power:
                        items = items * lengths**self.norm_power
                self._kept = (state, (users, items))
        return self._kept[1]
