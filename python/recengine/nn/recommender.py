"""The sequence recommender around an encoder: batches, loss, states of people, item vectors."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.contracts.batch import HistoryBatch, SequenceBatch, StepContext
from recengine.contracts.loss import EVERY_NEED, LossInput
from recengine.contracts.model import Feed
from recengine.data.masking import Masking
from recengine.errors import UsageError
from recengine.nn.ragged import append_one, keep_recent, keep_window, runs
from recengine.nn.sequence_encoder import SequenceEncoder

EVENTS = 8192  # encoded at once for answers; more are slower, and every buffer of a block would be longer


class SequenceRecommender(nn.Module):
    """score of item i = <h, e_i> + b_i, h the encoder's state where the item is missing.

    masking None: h is the state at the last event, and every event is trained on the one after it.
    masking given: h is the state at a hidden event; training hides events as it says, and an answer is asked
    for by one hidden event behind the history. Only rows with a target reach the output, in training and in
    use alike.

    tied: e is the encoder's item table, else a table of its own. bias: whether there is b.
    max_length: most events the encoder sees, the hidden one included.
    A history without events has the state zero: b decides, and without it nothing is preferred.
    """

    encoder: SequenceEncoder
    supplies = EVERY_NEED

    def __init__(
        self,
        encoder: Any,
        max_length: int,
        *,
        masking: Masking | None = None,
        tied: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.max_length, self.masking = max_length, masking
        n_items, dim = encoder.items.num_embeddings, encoder.items.embedding_dim
        self.output = None if tied else nn.Embedding(n_items, dim)
        self.bias = nn.Parameter(torch.zeros(n_items)) if bias else None
        self.loss: Any = None
        self._cosine = False

    def attach_loss(self, loss: Any) -> None:
        """Take the loss that the settings name; of cosines, where it compares those, and then without b."""
        self.loss = loss
        self._cosine = getattr(loss, "score", "dot") == "cosine"
        if self._cosine:
            self.bias = None

    def feed(self) -> Feed:
        return Feed(
            "sequences",
            max_length=self.max_length,
            negatives=getattr(self.loss, "negatives", 0),
            shared=getattr(self.loss, "shared", False),
            sampler=getattr(self.loss, "sampler", "uniform"),
            power=getattr(self.loss, "power", 1.0),
            masking=self.masking,
        )

    def training_loss(self, batch: SequenceBatch, context: StepContext) -> Tensor:
        wanted = (batch.targets >= 0).nonzero().flatten()
        targets, negatives, log_q = batch.targets, batch.negatives, batch.log_q
        if wanted.numel() == targets.numel():
            hidden = self.encoder.states(batch.items, batch.offsets, batch.times)
        else:
            hidden = self.encoder.at(batch.items, batch.offsets, wanted, batch.times)
            targets = targets[wanted]
            if negatives is not None and negatives.ndim == 2:
                negatives = negatives[wanted]
                log_q = None if log_q is None else log_q[wanted]
        popularity, history = context.extras.get("popularity"), context.extras.get("user_items")
        owners = torch.repeat_interleave(batch.users, batch.offsets[1:] - batch.offsets[:-1])
        given = LossInput(
            hidden,
            self._table,
            targets,
            negatives,
            log_q,
            bias=self.bias,
            row_ids=owners[wanted],
            popularity=popularity if isinstance(popularity, Tensor) else None,
            user_items=history if isinstance(history, tuple) else None,
        )
        loss: Tensor = self.loss(given, context)
        return loss

    def user_vectors(self, histories: HistoryBatch) -> Tensor:
        """float [B, d], in the dtype of the item table."""
        table = self.encoder.items.weight
        items, offsets, times = self._seen(histories)
        known = offsets[1:] > offsets[:-1]
        vectors = table.new_zeros(len(histories), table.shape[1])
        if not bool(known.any()):
            return vectors
        offsets = torch.cat([offsets[:1], offsets[1:][known]])
        if self.masking is not None:
            items, offsets = append_one(items, offsets, table.shape[0])
        items, offsets = items.to(table.device), offsets.to(table.device)
        last = self._answer(self._last(items, offsets, times))
        vectors[known.to(table.device)] = last.to(vectors.dtype)
        return vectors

    def item_vectors(self) -> Tensor:
        return self._answer(self._table)

    def item_bias(self) -> Tensor | None:
        return self.bias

    @property
    def _table(self) -> Tensor:
        return self.encoder.items.weight if self.output is None else self.output.weight

    def _answer(self, vectors: Tensor) -> Tensor:
        """As they are ranked by: of length 1 where the loss compares cosines."""
        return functional.normalize(vectors, dim=-1) if self._cosine else vectors

    def _last(self, items: Tensor, offsets: Tensor, times: Tensor | None) -> Tensor:
        """float [B, d], the states at the ends of packed sequences, none of them empty."""
        if items.shape[0] <= EVENTS or items.device.type != "cpu":  # a GPU wants few large kernels
            return self.encoder.at(items, offsets, offsets[1:] - 1, times)
        parts = []
        for begin, end in runs(offsets, EVENTS):
            first, last = int(offsets[begin]), int(offsets[end])
            own = offsets[begin : end + 1] - first
            when = None if times is None else times[first:last]
            parts.append(self.encoder.at(items[first:last], own, own[1:] - 1, when))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _seen(self, histories: HistoryBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """The events that the encoder may see."""
        limit = self.max_length - (self.masking is not None)
        items, offsets = keep_recent(histories.items, histories.offsets, limit)
        if histories.times is None or self.masking is not None:
            return items, offsets, None
        times = keep_recent(histories.times, histories.offsets, limit)[0]
        return items, offsets, times.to(self.encoder.items.weight.device)


class AppendingEncoder(SequenceEncoder, Protocol):
    """An encoder that can also take one event at a time."""

    def empty_state(self, count: int) -> dict[str, Tensor]:
        """The state of ``count`` empty histories; every tensor has one row each."""
        ...

    def append(self, state: dict[str, Tensor], items: Tensor) -> Tensor:
        """float [B, d] after one more event a sequence, int64 [B]; ``state`` takes the events in."""
        ...

    def read(self, items: Tensor, offsets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The state behind whole packed sequences, none of them empty, and float [B, d] after each."""
        ...


class AppendingRecommender(SequenceRecommender):
    """A sequence recommender that takes events one at a time (contract: Appends).

    Where the settings allow that (``empty_state`` does not refuse), it sees a window that is a function of
    the number of events alone (nn.ragged.window_of), so that a state carried along and a history read at once
    give the same answer; elsewhere the newest ``max_length`` events, as any sequence recommender.
    """

    encoder: AppendingEncoder

    @property
    def window(self) -> int:
        """Most events that a state stands for."""
        return self.max_length

    def empty_state(self, count: int) -> dict[str, Tensor]:
        """The state of ``count`` empty histories; raises UsageError where the settings rule it out."""
        if self.masking is not None:
            raise UsageError(
                "a model that fills hidden events cannot take one event at a time",
                found=type(self).__name__,
                expected="a causal model of the next event",
                fix="fit it with direction = 'causal', objective = 'next', positions = 'first'",
            )
        return self.encoder.empty_state(count)

    def append(self, state: dict[str, Tensor], items: Tensor) -> Tensor:
        """User vectors float [B, d] after one more event each, int64 [B]; ``state`` takes the events in."""
        return self._answer(self.encoder.append(state, items))

    def read(self, items: Tensor, offsets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """State and user vectors float [B, d] of whole packed histories, none empty, none longer than
        ``window``."""
        state, vectors = self.encoder.read(items, offsets)
        return state, self._answer(vectors)

    @cached_property
    def _takes_events(self) -> bool:
        """Asked for every answer; the settings decide it once."""
        try:
            self.empty_state(0)
        except UsageError:
            return False
        return True

    def _seen(self, histories: HistoryBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        if not self._takes_events:
            return super()._seen(histories)
        items, offsets = keep_window(histories.items, histories.offsets, self.max_length)
        return items, offsets, None
