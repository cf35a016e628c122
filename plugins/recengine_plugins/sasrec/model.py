"""SASRec on packed sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.contracts.batch import HistoryBatch, SequenceBatch, StepContext
from recengine.contracts.loss import LossInput
from recengine.contracts.model import DataFacts, Feed
from recengine.nn.dropout import Dropout
from recengine.nn.ragged import Layout, keep_recent, layout
from recengine.nn.transformer import CausalBlock
from recengine_plugins.sasrec.config import SASRecConfig


class SASRec(nn.Module):
    """h_t = Transformer(item vectors + positions up to t); score of item i after t = <h_t, e_i>.

    The item table e is both input and output (tied). Every position of a sequence is trained to predict the
    item after it. Inference computes the last block at the last position only.
    Source: Kang and McAuley, "Self-attentive sequential recommendation", ICDM 2018.
    """

    def __init__(self, config: SASRecConfig, facts: DataFacts) -> None:
        super().__init__()
        self.config = config
        dim = config.hidden_dim
        self.items = nn.Embedding(facts.n_items, dim)
        self.positions = nn.Embedding(config.max_length, dim)
        self.blocks = nn.ModuleList(
            CausalBlock(dim, config.n_heads, config.inner_factor * dim, config.dropout, config.activation)
            for _ in range(config.n_blocks)
        )
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(config.dropout)
        self.loss: Any = None
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.trunc_normal_(
                module.weight,
                std=self.config.init_std,
                a=-2 * self.config.init_std,
                b=2 * self.config.init_std,
            )
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def attach_loss(self, loss: Any) -> None:
        """Take the loss that the settings name."""
        self.loss = loss

    def feed(self) -> Feed:
        return Feed(
            "sequences",
            max_length=self.config.max_length,
            negatives=getattr(self.loss, "negatives", 0),
            shared=getattr(self.loss, "shared", False),
            sampler=getattr(self.loss, "sampler", "uniform"),
        )

    def training_loss(self, batch: SequenceBatch, context: StepContext) -> Tensor:
        hidden = self.hidden(batch.items, batch.offsets)
        wanted = batch.targets >= 0
        negatives, log_q = batch.negatives, batch.log_q
        targets = batch.targets
        if not bool(wanted.all()):
            hidden, targets = hidden[wanted], targets[wanted]
            if negatives is not None and negatives.ndim == 2:
                negatives = negatives[wanted]
                log_q = None if log_q is None else log_q[wanted]
        popularity = context.extras.get("popularity")
        given = LossInput(
            hidden,
            self.items.weight,
            targets,
            negatives,
            log_q,
            popularity=popularity if isinstance(popularity, Tensor) else None,
        )
        loss: Tensor = self.loss(given, context)
        return loss

    def hidden(self, items: Tensor, offsets: Tensor) -> Tensor:
        """float [T, d], the state after every event of packed sequences no longer than max_length."""
        place = layout(offsets)
        rows = self._embed(items, place)
        for block in self.blocks:
            rows = block(rows, place)
        normed: Tensor = self.norm(rows)
        return normed

    def user_vectors(self, histories: HistoryBatch) -> Tensor:
        """float [B, d]; zero for an empty history, so that nothing is preferred."""
        device = self.items.weight.device
        items, offsets = keep_recent(histories.items, histories.offsets, self.config.max_length)
        lengths = offsets[1:] - offsets[:-1]
        known = lengths > 0
        vectors = torch.zeros(len(histories), self.config.hidden_dim, device=device)
        if not bool(known.any()):
            return vectors
        offsets = torch.cat([offsets[:1], offsets[1:][known]]).to(device)
        place = layout(offsets)
        rows = self._embed(items.to(device), place)
        for block in list(self.blocks)[:-1]:
            rows = block(rows, place)
        last = self.blocks[-1].last(rows, place, offsets[1:] - 1)
        vectors[known.to(device)] = self.norm(last).to(vectors.dtype)
        return vectors

    def item_vectors(self) -> Tensor:
        return self.items.weight

    def item_bias(self) -> Tensor | None:
        return None

    def _embed(self, items: Tensor, place: Layout) -> Tensor:
        where = place.from_end if self.config.positions == "recent" else place.position
        rows: Tensor = self.dropout(self.items(items) + functional.embedding(where, self.positions.weight))
        return rows
