"""Recommendations of a run, in original ids."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from recengine.contracts.batch import HistoryBatch
from recengine.errors import DataError, DataWarning, UsageError
from recengine.ops.retrieval import MAX_K
from recengine.training.ranking import best

if TYPE_CHECKING:
    import polars as pl

    from recengine.training.run import Run

__all__ = ["best", "recommend"]

BLOCK = 1024


def recommend(
    run: Run,
    users: Sequence[Any] | Mapping[Any, Sequence[Any]],
    k: int = 10,
    *,
    exclude_seen: bool = True,
    strict: bool = False,
) -> pl.DataFrame:
    """The k best items for each user, in original ids: columns user, rank (from 1), item, score.

    users: ids of known users (their history is everything the split knows of them), or a mapping from any
    label to a history of item ids, oldest first, for people that are new or have moved on. Items of such a
    history that the model has never met are passed over, with one DataWarning a call. Somebody of whom
    nothing is known gets the most popular items from a model that gives all of them one score then. A user
    with fewer than k items left gets fewer.
    exclude_seen: leave out the items of the history. strict: items that the model has never met are a
    DataError.
    Raises DataError for unknown users and for a history that is not a list of ids of the data's type,
    UsageError for one id in place of several and for a k that is not a whole number of 1 to 1000 (a k above
    the catalogue is lowered to it first).
    """
    k = list_length(k, len(run.split.train.items))
    labels = several(users)
    if isinstance(users, Mapping):
        batch = _batch(known_items(run, users, strict=strict))
    else:
        batch = known_histories(run, labels)
    network = run.model
    if network.training:  # eval() visits every module, which costs more than a layer
        network.eval()
    ids, scores = [], []
    with torch.inference_mode():
        for low in range(0, len(labels), BLOCK):
            found = best(network, _slice(batch, low, min(low + BLOCK, len(labels))), k, exclude_seen)
            ids.append(found[0].cpu().numpy())
            scores.append(found[1].float().cpu().numpy())
    items = np.concatenate(ids) if ids else np.empty((0, k), np.int64)
    values = np.concatenate(scores) if scores else np.empty((0, k), np.float32)
    return table(run, labels, popular_where_level(run, batch, items, values), values)


def several(users: Any) -> list[Any]:
    """``users`` as a list; raises UsageError for a single id."""
    if isinstance(users, str | bytes) or not isinstance(users, Iterable):
        raise UsageError(
            "one id in place of several",
            where="users",
            found=repr(users),
            expected="a sequence of ids of users, or a mapping from labels to histories",
            fix=f"put it in a list: [{users!r}]",
        )
    return list(users)


def list_length(k: Any, n_items: int, where: str = "k") -> int:
    """``k``, at most ``n_items``; raises UsageError where that is not a whole number of 1 to 1000. where: its
    name to the caller."""
    length = min(int(k), max(n_items, 1)) if isinstance(k, Integral) else 0
    if not 1 <= length <= MAX_K:
        raise UsageError(
            "not the length of a list", where=where, found=repr(k), expected=f"a whole number of 1 to {MAX_K}"
        )
    return length


def popular_where_level(
    run: Run, histories: HistoryBatch, items: NDArray[np.int64], values: NDArray[np.float32]
) -> NDArray[np.int64]:
    """``items`` [B, k]; where nothing is known of somebody and all ``values`` are one number (a model without
    item biases): the most popular of the training events instead of the first rows of the catalogue."""
    level = (histories.offsets.diff() == 0).cpu().numpy() & (items >= 0).all(axis=1)
    level &= (values == values[:, :1]).all(axis=1)
    if not level.any():
        return items
    popular = np.argsort(-run.split.train.popularity(), kind="stable")[: items.shape[1]]
    return np.where(level[:, None], popular, items)


def table(
    run: Run, labels: Sequence[Any], items: NDArray[np.int64], values: NDArray[np.float32]
) -> pl.DataFrame:
    """Item rows [B, k] (-1: none) and scores alike as what ``recommend`` gives."""
    import polars as pl

    kept = items >= 0
    row, rank = np.nonzero(kept)
    chosen = run.split.train.items.tokens[items[kept]]
    return pl.DataFrame(
        {
            "user": [labels[index] for index in row.tolist()],
            "rank": rank + 1,
            "item": chosen if chosen.dtype.kind == "i" else chosen.tolist(),
            "score": values[kept].astype(np.float64),
        }
    )


def known_histories(run: Run, labels: Sequence[Any]) -> HistoryBatch:
    """Histories of users by id: everything that the split knows of them. Raises DataError for an unknown
    user, UsageError for histories in place of ids."""
    vocabulary = run.split.train.users
    lists = [
        label
        for label in labels
        if isinstance(label, Sequence | np.ndarray) and not isinstance(label, str | bytes)
    ]
    if lists:
        raise UsageError(
            "a list in place of the id of a user",
            where="users",
            found=repr(lists[0])[:80],
            expected="a sequence of ids of users, or a mapping from labels to histories",
            fix="give histories as a mapping: {'visitor': ['tea', 'sugar']}",
        )
    rows = vocabulary.rows(np.asarray(labels)) if labels else np.empty(0, np.int64)
    unknown = [
        label
        for label, row in zip(labels, rows, strict=True)
        if row < 0 or isinstance(label, str) != vocabulary.is_text  # numpy makes text of 3 in ['a', 3]
    ]
    if unknown:
        raise DataError(
            "users that the run does not know",
            where="recommend",
            found=", ".join(map(repr, unknown[:5])) + (" …" if len(unknown) > 5 else ""),
            expected="ids of the training data",
            fix="give somebody new by items: --history a,b,c, or in Python a mapping from a label to items",
        )
    return HistoryBatch(**run.split.test.history.history(rows).tensors())


def known_items(
    run: Run, histories: Mapping[Any, Sequence[Any]], *, strict: bool = False
) -> list[NDArray[np.int64]]:
    """int64 rows of the items of each history, oldest first, those that the model never met left out.

    Warns (DataWarning, once for all histories) of what is left out; with ``strict`` that is a DataError.
    Raises DataError as ``item_rows`` does.
    """
    rows = [item_rows(run, label, items) for label, items in histories.items()]
    strange = [index for index, found in enumerate(rows) if found.size and found.min() < 0]
    if strange:
        told = _strange(list(histories.items()), rows, strange)
        if strict:
            raise DataError(
                "items that the run does not know",
                where="the histories",
                found=told,
                expected="ids of the data the run was fitted on",
                fix="leave them out, or pass them over with strict=False",
            )
        warnings.warn(
            f"item ids that the run does not know are passed over: {told}", DataWarning, stacklevel=_outside()
        )
    return [found[found >= 0] for found in rows]


def _outside() -> int:
    """Level on the stack, counted from the caller, of the first frame that is not the engine's."""
    frame, level = sys._getframe(1).f_back, 2
    while frame is not None and frame.f_globals.get("__name__", "").startswith("recengine."):
        frame, level = frame.f_back, level + 1
    return level


def _strange(
    histories: Sequence[tuple[Any, Sequence[Any]]], rows: Sequence[NDArray[np.int64]], which: Sequence[int]
) -> str:
    """How many items of the histories ``which`` are unknown, and the first of each of two."""
    count = sum(int((rows[index] < 0).sum()) for index in which)
    examples = []
    for index in which[:2]:
        label, items = histories[index]
        first = np.asarray(items)[int(np.argmin(rows[index]))]
        examples.append(f"{_plainly(first)} of {label!r}")
    return f"{count} in {len(which)} of {len(histories)} histories ({', '.join(examples)})"


def item_rows(run: Run, label: Any, items: Sequence[Any]) -> NDArray[np.int64]:
    """int64 rows of a history's items, -1 for those that the model never met. Raises DataError when it is
    not a list, or one of its ids is of a type that no id of the data has (None and NaN are none)."""
    vocabulary = run.split.train.items
    try:
        tokens = np.asarray(items)
    except ValueError:  # lists of different lengths in it
        tokens = np.empty((0, 0))
    if tokens.ndim != 1:
        raise DataError(
            "a history is a list of item ids",
            where=f"the history of {label!r}",
            found=repr(items)[:80],
            expected="for example ['tea', 'sugar'], [] for none",
        )
    if not tokens.size:
        return np.empty(0, np.int64)
    if vocabulary.is_text:  # of each item: numpy makes text of a number that stands among texts
        fits = all(issubclass(kind, str) for kind in set(map(type, items)))
    else:
        fits = tokens.dtype.kind in "iub"
    if len(vocabulary) and not fits:
        wanted = str if vocabulary.is_text else Integral
        first = next((item for item in items if not isinstance(item, wanted)), tokens[0])
        raise DataError(
            "no item can be known by an id of this type",
            where=f"the history of {label!r}",
            found=_plainly(first),
            expected=f"an id like {vocabulary.tokens[0].item()!r}",
            fix="give the ids as the data has them: text as text, whole numbers as numbers, none missing",
        )
    return vocabulary.rows(tokens)


def _plainly(token: Any) -> str:
    return repr(token.item() if isinstance(token, np.generic) else token)


def _batch(rows: Sequence[NDArray[np.int64]]) -> HistoryBatch:
    """Histories of people who are no users, by the rows of their items."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([row.size for row in rows], dtype=np.int64)])
    return HistoryBatch(
        torch.full((len(rows),), -1, dtype=torch.int64),
        torch.from_numpy(np.concatenate(rows) if rows else np.empty(0, np.int64)),
        torch.from_numpy(offsets),
    )


def _slice(batch: HistoryBatch, low: int, high: int) -> HistoryBatch:
    a, b = int(batch.offsets[low]), int(batch.offsets[high])
    times = None if batch.times is None else batch.times[a:b]
    return HistoryBatch(batch.users[low:high], batch.items[a:b], batch.offsets[low : high + 1] - a, times)
