"""From packed item sequences to hidden states: item vectors, positions, blocks, a norm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.errors import UsageError
from recengine.nn.dropout import Dropout
from recengine.nn.ragged import Layout, layout
from recengine.nn.transformer import Block

Positions = Literal["recent", "first", "none"]


class SequenceEncoder(Protocol):
    """What a sequence recommender computes its states with; also a ``torch.nn.Module``.

    items: int64 [T], sequences one after another; offsets: int64 [B + 1]; no sequence is empty, none longer
    than the model's limit; times: int64 [T] or None. ``items.weight`` is the item table, float [n_items, d].
    """

    items: nn.Embedding

    def states(self, items: Tensor, offsets: Tensor, times: Tensor | None = None) -> Tensor:
        """float [T, d], the state at every event."""
        ...

    def at(self, items: Tensor, offsets: Tensor, wanted: Tensor, times: Tensor | None = None) -> Tensor:
        """float [R, d], the states at the rows ``wanted`` (int64 [R], ascending) and no others."""
        ...


class ItemInput(nn.Module):
    """x_t = dropout(e(i_t) + p(position)).

    masked: whether items may be hidden: the id n_items stands for a hidden one and has a vector of its own.
    positions: learned, counted from the newest event ('recent') or the oldest ('first'), or 'none'.
    """

    def __init__(
        self, n_items: int, dim: int, max_length: int, dropout: float, positions: Positions, masked: bool
    ) -> None:
        super().__init__()
        self.counted = positions
        self.items = nn.Embedding(n_items, dim)
        self.positions = nn.Embedding(max_length, dim) if positions != "none" else None
        self.hidden = nn.Embedding(1, dim) if masked else None
        self.dropout = Dropout(dropout)

    def forward(self, items: Tensor, place: Layout) -> Tensor:
        """items int64 [T] -> [T, d]."""
        return self._rows(items, place.from_end if self.counted == "recent" else place.position)

    def next(self, items: Tensor, count: Tensor) -> Tensor:
        """[B, d] for the count-th events of their sequences (from 1), both int64 [B]."""
        self.counts_from_the_oldest()
        return self._rows(items, count - 1)

    def first(self, items: Tensor, place: Layout) -> Tensor:
        """items int64 [T] -> [T, d], as ``next`` gives it event by event."""
        self.counts_from_the_oldest()
        return self._rows(items, place.position)

    def counts_from_the_oldest(self) -> None:
        """Raises UsageError where an event's position changes with every event after it."""
        if self.counted == "recent":
            raise UsageError(
                "positions counted from the newest event change with every event",
                found="positions = 'recent'",
                expected="'first' or 'none'",
                fix="fit the model with positions = 'first'",
            )

    def _rows(self, items: Tensor, where: Tensor) -> Tensor:
        if self.hidden is None:
            rows = self.items(items)
        else:
            hidden = items == self.items.num_embeddings
            rows = torch.where(hidden[:, None], self.hidden.weight, self.items(items.masked_fill(hidden, 0)))
        if self.positions is not None:
            rows = rows + functional.embedding(where, self.positions.weight)
        out: Tensor = self.dropout(rows)
        return out


class BlockEncoder(nn.Module):
    """ItemInput, then blocks, then ``norm``.

    ``at`` computes the last block at the wanted rows only, but for their sequences' keys and values.
    """

    def __init__(self, given: ItemInput, blocks: Iterable[Block], norm: nn.Module) -> None:
        super().__init__()
        self.given = given
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm

    @property
    def items(self) -> nn.Embedding:
        """The item table."""
        return self.given.items

    def states(self, items: Tensor, offsets: Tensor, times: Tensor | None = None) -> Tensor:
        """float [T, d]."""
        place = layout(offsets)
        rows = self.given(items, place)
        for block in self.blocks:
            rows = block(rows, place)
        out: Tensor = self.norm(rows)
        return out

    def at(self, items: Tensor, offsets: Tensor, wanted: Tensor, times: Tensor | None = None) -> Tensor:
        """float [R, d]."""
        place = layout(offsets)
        rows = self.given(items, place)
        *body, last = self.blocks
        for block in body:
            rows = block(rows, place)
        out: Tensor = self.norm(last.at(rows, place, wanted))  # type: ignore[operator]
        return out

    def empty_state(self, count: int) -> dict[str, Tensor]:
        """The state of ``count`` empty histories; every tensor has one row each. Raises UsageError where the
        settings rule it out."""
        self.given.counts_from_the_oldest()
        counted = torch.zeros(count, dtype=torch.int64, device=self.items.weight.device)
        return {"count": counted} | {
            f"block{index}": block.attention.empty_state(count)  # type: ignore[union-attr, operator]
            for index, block in enumerate(self.blocks)
        }

    def append(self, state: dict[str, Tensor], items: Tensor) -> Tensor:
        """float [B, d] after one more event a sequence, int64 [B]; ``state`` takes the events in."""
        state["count"] += 1
        rows = self.given.next(items, state["count"])
        for index, block in enumerate(self.blocks):
            rows = block.step(rows, state[f"block{index}"], state["count"])  # type: ignore[operator]
        out: Tensor = self.norm(rows)
        return out

    def read(self, items: Tensor, offsets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """State behind whole sequences, and float [B, d], what ``append`` gives after their last events."""
        place = layout(offsets)
        rows = self.given.first(items, place)
        state = {"count": place.lengths.clone()}
        for index, block in enumerate(self.blocks):
            rows, state[f"block{index}"] = block.read(rows, place)  # type: ignore[operator]
        out: Tensor = self.norm(rows.index_select(0, place.ends))
        return state, out
