"""Evaluate: one pass over the users for all metrics and cut-offs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recengine.contracts.metric import CatalogueMetric, Metric, PlaceMetric, RankedLists
from recengine.data import EvalTask, Split
from recengine.errors import UsageError
from recengine.evaluation.lists import Block, Progress, parse_memory, positions_of, ranked_lists
from recengine.evaluation.metrics import AnyMetric, column_name, resolve_metrics
from recengine.evaluation.popularity import popularity_deciles
from recengine.evaluation.protocol import Protocol, task_fingerprint
from recengine.evaluation.result import Evaluation


def evaluate(
    model: Any,
    task: EvalTask | Split,
    *,
    protocol: Protocol | None = None,
    metrics: Sequence[str | AnyMetric] | None = None,
    cutoffs: Sequence[int] = (10,),
    memory: str | int = "256MiB",
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Rank the catalogue for every user of a task and measure the lists.

    Every item is ranked, what a user already met is left out, equal scores go by the smaller item row; a
    ``protocol`` can ask otherwise. The strongest ability of the model is used: vectors (through the fused
    top-k), dense scores, generated ids.

    Parameters
    ----------
    model: anything that Represents, ScoresItems or Generates (recengine.contracts.model); a torch module is
        put into evaluation mode meanwhile.
    task: what is asked; of a Split the test task, with the split's description in the protocol.
    metrics: names ('ndcg', or 'ndcg@20' with its own cut-off) and metric objects; None: the default set.
        'place', 'full_mrr', 'full_ndcg' and 'full_auc' have no cut-off: they come from the exact place of
        each user's only target, which is counted without making a list.
    cutoffs: list lengths, 1 to 1000.
    memory: what a block of users may cost, about: '256MiB'. It decides speed, never a number.
    device: where to compute; None: where the model is.
    progress: called with (users done, users in all).

    Raises
    ------
    UsageError: unknown metric, bad cut-off, a model that cannot recommend, a task of other items than the
        model's, a place asked of users with several targets. ConfigError: ``memory``.
    """
    description: dict[str, Any] = {}
    if isinstance(task, Split):
        description, task = dict(task.description), task.test
    columns = resolve_metrics(metrics, cutoffs)
    if not columns:
        raise UsageError(
            "nothing to measure", where="metrics", expected="at least one metric and one cut-off"
        )
    asked = _filled_in(protocol or Protocol(), task, description, columns)
    chosen = None if device is None else torch.device(device)
    with torch.inference_mode(), _evaluation_mode(model):
        longest = max(asked.cutoffs, default=1)
        places = any(isinstance(metric, PlaceMetric) for metric, _ in columns)
        found = ranked_lists(model, task, asked, longest, parse_memory(memory), chosen, places)
        return measure(found, task, asked, columns, progress)


def protocol_of(
    split: Split,
    task: str = "test",
    *,
    metrics: Sequence[str | AnyMetric] | None = None,
    cutoffs: Sequence[int] = (10,),
) -> Protocol:
    """What an evaluation on the 'test' or 'validation' task of ``split`` would ask, without a model.

    Raises UsageError when the split has no such task, or for an unknown metric.
    """
    asked = {"test": split.test, "validation": split.validation}.get(task)
    if asked is None:
        raise UsageError("the split has no such task", found=task, expected="test or validation")
    return _filled_in(Protocol(), asked, dict(split.description), resolve_metrics(metrics, cutoffs))


def _filled_in(
    protocol: Protocol,
    task: EvalTask,
    description: dict[str, Any],
    columns: Sequence[tuple[AnyMetric, int]],
) -> Protocol:
    return replace(
        protocol,
        task=protocol.task or task.name,
        split=protocol.split or description,
        cutoffs=tuple(sorted({k for _, k in columns if k})),
        metrics={column_name(metric, k): metric.definition for metric, k in columns},
        data=protocol.data or task_fingerprint(task),
    )


def measure(
    found: Iterator[Block],
    task: EvalTask,
    protocol: Protocol,
    columns: Sequence[tuple[AnyMetric, int]],
    progress: Progress | None = None,
) -> Evaluation:
    """Metrics of lists that come block by block, in the order of the task's users."""
    import polars as pl

    n, n_items = len(task), task.history.n_items
    popularity = task.history.popularity().astype(np.float64)
    deciles = popularity_deciles(popularity)
    by_user = [(column_name(metric, k), metric, k) for metric, k in columns if isinstance(metric, Metric)]
    by_place = [metric for metric, _ in columns if isinstance(metric, PlaceMetric)]
    overall = tuple((metric, k) for metric, k in columns if isinstance(metric, CatalogueMetric))
    named = [column_name(metric, k) for metric, k in columns if not isinstance(metric, CatalogueMetric)]
    values = {name: np.full(n, np.nan) for name in named}
    exposure = {k: np.zeros(n_items, np.int64) for k in sorted({k for _, k in columns if k})}
    n_targets, n_cold = np.zeros(n, np.int64), np.zeros(n, np.int64)
    target_decile = np.full(n, -1, np.int64)
    for block in found:
        rows = slice(block.begin, block.end)
        targets, indptr = positions_of(task, block.begin, block.end)
        n_targets[rows] = np.diff(indptr)
        target_decile[rows] = _middle(deciles[targets], indptr)
        owner = np.repeat(np.arange(block.end - block.begin), np.diff(indptr))
        n_cold[rows] = np.bincount(owner[popularity[targets] == 0], minlength=block.end - block.begin)
        lists = RankedLists(
            block.items,
            hits_of(block.items, targets, indptr, n_items),
            n_targets[rows],
            popularity,
            n_items,
            targets,
            indptr,
            task.history,
        )
        for name, metric, k in by_user:
            values[name][rows] = _checked(metric, metric.per_user(lists, k), block.end - block.begin)
        for counted in by_place:
            if block.places is None or block.n_ranked is None:
                raise UsageError(f"'{counted.name}' needs the places of the targets", where="measure")
            given = counted.of_places(block.places, block.n_ranked)
            values[counted.name][rows] = _checked(counted, given, block.end - block.begin)
        for k, counts in exposure.items():
            shown = block.items[:, :k]
            counts += np.bincount(shown[shown >= 0], minlength=n_items)
        if progress is not None:
            progress(block.end, n)
    frame = pl.DataFrame(
        {
            "user": task.history.users.tokens[task.users],
            "row": task.users,
            "n_history": task.history.lengths()[task.users],
            "n_targets": n_targets,
            "target_decile": target_decile,
            "n_cold": n_cold,
            **values,
        }
    )
    catalogue = {f"{metric.name}@{k}": metric.over_catalogue(exposure[k]) for metric, k in overall}
    return Evaluation(protocol, frame, exposure, catalogue, overall)


def hits_of(
    items: NDArray[np.int64], targets: NDArray[np.int64], indptr: NDArray[np.int64], n_items: int
) -> NDArray[np.bool_]:
    """bool like ``items``: whether each is among the targets of its row."""
    if targets.size == 0:
        return np.zeros(items.shape, bool)
    width = max(n_items, 1)
    owner = np.repeat(np.arange(items.shape[0], dtype=np.int64), np.diff(indptr))
    keys = owner * width + targets  # ascending
    wanted = np.arange(items.shape[0], dtype=np.int64)[:, None] * width + items
    at = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    return np.asarray((keys[at] == wanted) & (items >= 0))


def _middle(deciles: NDArray[np.int64], indptr: NDArray[np.int64]) -> NDArray[np.int64]:
    """The lower median of each row; -1 for an empty one."""
    counts = np.diff(indptr)
    owner = np.repeat(np.arange(counts.size), counts)
    ranked = deciles[np.lexsort((deciles, owner))]
    at = indptr[:-1] + np.maximum(counts - 1, 0) // 2
    found = np.full(counts.size, -1, np.int64)
    held = counts > 0
    found[held] = ranked[at[held]]
    return found


def _checked(metric: Metric | PlaceMetric, values: Any, users: int) -> NDArray[np.float64]:
    """A metric may come from a plugin: one float64 a user, or a message that names it."""
    array = np.asarray(values, np.float64)
    if array.shape != (users,):
        raise UsageError(
            f"the metric '{metric.name}' broke its contract",
            where=f"{type(metric).__name__}.{'of_places' if isinstance(metric, PlaceMetric) else 'per_user'}",
            found=f"an array of shape {array.shape}",
            expected=f"({users},), one value a user",
        )
    return array


@contextmanager
def _evaluation_mode(model: Any) -> Iterator[None]:
    """A torch module in evaluation mode; back to training mode afterwards where it was."""
    training = bool(getattr(model, "training", False)) and isinstance(model, torch.nn.Module)
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
