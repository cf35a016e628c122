"""People whose events arrive one at a time, and what to recommend to them now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from recengine.contracts.batch import HistoryBatch
from recengine.contracts.model import Appends
from recengine.errors import DataError, UsageError
from recengine.nn.ragged import window_of
from recengine.training.ranking import top_of_vectors
from recengine.training.recommending import (
    BLOCK,
    item_rows,
    known_items,
    list_length,
    popular_where_level,
    several,
    table,
)
from recengine.training.run import Run

if TYPE_CHECKING:
    import polars as pl


class Sessions:
    """Keeps the model's state of each person; an event costs the same whatever came before it.

    run: of a model that takes events one at a time (contract Appends): ``cotten4rec`` and ``linrec`` with
    direction = 'causal', objective = 'next' and positions = 'first' or 'none', ``gru4rec``. People are known
    by any label. What is recommended is what ``run.recommend`` gives for the same history, up to rounding.
    Kept for a person: the state, the user vector and the item rows of the history (what was seen is not
    recommended).

    Raises UsageError when the model cannot take single events, or for something else than a run.
    """

    def __init__(self, run: Run) -> None:
        if not isinstance(run, Run):
            raise UsageError(
                "this is no run",
                where="Sessions",
                found=repr(run)[:80],
                expected="what recengine.fit or recengine.load gives",
                fix="load the folder first: Sessions(recengine.load('runs/first'))",
            )
        if not isinstance(run.model, Appends):
            raise UsageError(
                "this model cannot take one event at a time",
                where="Sessions",
                found=run.name,
                expected="a model with empty_state() and append()",
                fix="fit gru4rec, or cotten4rec with model.direction = 'causal', model.objective = 'next', "
                "model.positions = 'first'",
            )
        self.run = run
        self.model = cast(Appends, run.model.eval())
        self._state = self.model.empty_state(1)
        items = self.model.item_vectors()
        self._vectors = items.new_zeros(1, items.shape[1])
        self._row: dict[Any, int] = {}
        self._histories: list[list[int]] = []
        self._held: list[int] = []

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, label: object) -> bool:
        return label in self._row

    def append(self, label: Any, item: Any) -> bool:
        """One more event of ``label``, who need not be known; False for an item that the model never met,
        which is passed over. Raises DataError as ``extend`` does, UsageError for a label that is not
        hashable (a list, say)."""
        rows = item_rows(self.run, _person(label), [item])
        return self._take_in({label: rows[rows >= 0].tolist()}) == 1

    def extend(self, histories: Mapping[Any, Sequence[Any]]) -> int:
        """More events of many people, oldest first, all people at once; how many were taken in. Items that
        the model never met are passed over, with one DataWarning a call. What fails leaves everybody as they
        were; DataError for a history that is not a list of ids of the data's type, UsageError for something
        else than a mapping."""
        if not isinstance(histories, Mapping):
            raise UsageError(
                "histories without labels",
                where="Sessions.extend",
                found=repr(histories)[:80],
                expected="a mapping from labels to lists of item ids",
                fix="of pairs: extend(dict(pairs)); of one event: append(label, item)",
            )
        rows = known_items(self.run, histories)
        return self._take_in(dict(zip(histories, (row.tolist() for row in rows), strict=True)))

    def recommend(self, labels: Sequence[Any], k: int = 10) -> pl.DataFrame:
        """The k best unseen items for each: columns user, rank (from 1), item, score. Who has no events yet
        gets what the item biases say. Raises DataError for a label that was never told of, UsageError for
        one that is not hashable, and for a k as ``run.recommend`` does."""
        k, labels = list_length(k, len(self.run.split.train.items)), several(labels)
        unknown = [label for label in labels if _person(label) not in self._row]
        if unknown:
            raise DataError(
                "nothing is known of them",
                where="Sessions.recommend",
                found=", ".join(map(repr, unknown[:5])),
                fix="append or extend first; run.recommend takes histories as they are",
            )
        rows = [self._row[label] for label in labels]
        lengths = [len(self._histories[row]) for row in rows]
        seen = HistoryBatch(
            torch.full((len(rows),), -1),
            torch.tensor([item for row in rows for item in self._histories[row]], dtype=torch.int64),
            torch.tensor(np.concatenate([[0], np.cumsum(lengths)]), dtype=torch.int64),
        )
        with torch.inference_mode():
            items, scores = top_of_vectors(self.model, self._vectors[rows], seen, k)
        ids, values = items.numpy(), scores.float().numpy()
        return table(self.run, labels, popular_where_level(self.run, seen, ids, values), values)

    def forget(self, label: Any) -> None:
        """Remove a person; the place is kept for the next one. Raises UsageError for a label that is not
        hashable."""
        if _person(label) not in self._row:
            return
        row, last = self._row.pop(label), len(self._histories) - 1
        with torch.inference_mode():
            for tensor in (*self._state.values(), self._vectors):
                tensor[row] = tensor[last]
                tensor[last] = 0
        self._histories[row], self._held[row] = self._histories[last], self._held[last]
        self._histories.pop()
        self._held.pop()
        for other, place in self._row.items():
            if place == last:
                self._row[other] = row
                break

    def _take_in(self, given: Mapping[Any, list[int]]) -> int:
        """Item rows by label, read by the model or, where that fails, by nobody; how many they are."""
        with torch.inference_mode(), self._all_or_nothing(given) as known:
            many = [row for row, events in known.items() if len(events) > 1]
            single = [row for row, events in known.items() if len(events) == 1]
            for low in range(0, len(many), BLOCK):
                self._read(many[low : low + BLOCK])
            self._take(single)
        return sum(map(len, given.values()))

    @contextmanager
    def _all_or_nothing(self, given: Mapping[Any, list[int]]) -> Iterator[dict[int, list[int]]]:
        """Events by label behind the histories, and by row to whom they are shown to the model."""
        fresh = [label for label in given if label not in self._row]
        known = {self._row_of(label): events for label, events in given.items()}
        rows = [row for row, events in known.items() if events]
        before = self._vectors[rows]
        for row in rows:
            self._histories[row].extend(known[row])
        try:
            yield known
        except BaseException:
            self._vectors[rows] = before
            for row in rows:
                del self._histories[row][-len(known[row]) :]
                self._held[row] = self.model.window  # a half changed state: the next event reads anew
            for label in reversed(fresh):
                self.forget(label)
            raise

    def _row_of(self, label: Any) -> int:
        row = self._row.get(label)
        if row is None:
            row = self._row[label] = len(self._histories)
            self._histories.append([])
            self._held.append(0)
            if row == self._vectors.shape[0]:
                self._grow(2 * row)
        return row

    def _grow(self, capacity: int) -> None:
        fresh = self.model.empty_state(capacity)
        for name, tensor in self._state.items():
            fresh[name][: tensor.shape[0]] = tensor
        vectors = self._vectors.new_zeros(capacity, self._vectors.shape[1])
        vectors[: self._vectors.shape[0]] = self._vectors
        self._state, self._vectors = fresh, vectors

    def _take(self, rows: list[int]) -> None:
        """The newest event of different people."""
        full = {row for row in rows if self._held[row] == self.model.window}
        self._read(list(full))
        rows = [row for row in rows if row not in full]
        if rows:
            self._vectors[rows] = self._step(rows, torch.tensor([self._histories[row][-1] for row in rows]))
        for row in rows:
            self._held[row] += 1

    def _read(self, rows: list[int]) -> None:
        """The windows of people at once, whatever was held of them (see recengine.nn.ragged.window_of)."""
        if not rows:
            return
        lengths = torch.tensor([len(self._histories[row]) for row in rows])
        held = window_of(lengths, self.model.window)
        seen = [self._histories[row][-count:] for row, count in zip(rows, held.tolist(), strict=True)]
        offsets = torch.cat([held.new_zeros(1), held.cumsum(0)])
        state, vectors = self.model.read(torch.tensor([item for one in seen for item in one]), offsets)
        for name, tensor in state.items():
            self._state[name][rows] = tensor
        self._vectors[rows] = vectors
        for row, count in zip(rows, held.tolist(), strict=True):
            self._held[row] = count

    def _step(self, rows: list[int], items: Tensor) -> Tensor:
        if len(rows) == 1:  # a view: nothing is copied
            at = slice(rows[0], rows[0] + 1)
            return self.model.append({name: tensor[at] for name, tensor in self._state.items()}, items)
        mine = {name: tensor[rows] for name, tensor in self._state.items()}
        vectors = self.model.append(mine, items)
        for name, tensor in mine.items():
            self._state[name][rows] = tensor
        return vectors


def _person(label: Any) -> Any:
    """``label`` as it is; raises UsageError where nobody can be known by it."""
    try:
        hash(label)
    except TypeError:
        raise UsageError(
            "nobody can be known by this label",
            where="Sessions",
            found=repr(label)[:80],
            expected="a text, a number or another hashable value",
            fix="give one label; of many people at once: extend({label: items})",
        ) from None
    return label
