"""Results by group: users by the length of their history, targets by the popularity of the item."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from recengine.data import EvalTask, Interactions
from recengine.data.groups import cold_targets
from recengine.reports.content import Estimate, Slices
from recengine.reports.facts import length_group, length_labels
from recengine.reports.words import metric_name

Values = NDArray[np.float64]
Lists = NDArray[np.int64]
DECILES = 10


def mean_with_interval(values: Values) -> Estimate | None:
    """Mean of the values that are not NaN and its 95 % t interval over users; None without two of them."""
    from scipy import stats

    defined = values[np.isfinite(values)]
    n = int(defined.size)
    if n < 2:
        return None
    mean = float(defined.mean())
    half = float(stats.t.ppf(0.975, n - 1) * defined.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def ratio_with_interval(hits: Values, counts: Values) -> Estimate | None:
    """sum(hits) / sum(counts) over users, with the 95 % interval of the linearised ratio.

    A user's targets stand or fall together, so users, not targets, are the independent pieces:
    var = U / (U - 1) * sum_u (hits_u - r counts_u)^2 / (sum_u counts_u)^2. None with fewer than two users.
    """
    asked = counts > 0
    hits, counts = hits[asked], counts[asked]
    users = int(counts.size)
    if users < 2:
        return None
    total = counts.sum()
    ratio = float(hits.sum() / total)
    spread = float(np.sqrt(users / (users - 1) * np.square(hits - ratio * counts).sum()) / total)
    return Estimate(ratio, max(0.0, ratio - 1.96 * spread), min(1.0, ratio + 1.96 * spread), users)


def by_history_length(task: EvalTask, per_user: Mapping[str, Values], metric: str) -> Slices | None:
    """``metric`` by the number of events in the history. per_user: by system, values [E] in the order of
    ``task.users``. None when all histories are in one group."""
    lengths = np.diff(task.history.indptr)[task.users]
    group = length_group(np.maximum(lengths, 1))
    present = np.unique(group)
    if present.size < 2:
        return None
    labels = length_labels()
    return Slices(
        "By length of the history",
        f"{metric_name(metric)} of users grouped by the number of events in their history, "
        "with 95 % intervals over users.",
        metric,
        "events in the history",
        "users",
        tuple(labels[g] for g in present),
        tuple(int((group == g).sum()) for g in present),
        {
            system: tuple(mean_with_interval(values[group == g]) for g in present)
            for system, values in per_user.items()
        },
    )


def by_popularity(task: EvalTask, train: Interactions, lists: Mapping[str, Lists]) -> Slices | None:
    """Share of the targets found, by popularity of the item; targets without a training event (cold items)
    apart, where there are any. lists: by system, item rows [E, k] in the order of ``task.users``. None with
    fewer than ten items."""
    deciles = popularity_deciles(train.item, train.n_items)
    if deciles is None or not task.targets.size:
        return None
    owner = np.repeat(np.arange(task.users.size), np.diff(task.indptr))
    cold = cold_targets(task, train)
    group = np.where(cold, 0, deciles[task.targets] + 1)
    shown = slice(0 if cold.any() else 1, None)
    counts = np.zeros((DECILES + 1, task.users.size))
    np.add.at(counts, (group, owner), 1.0)
    k = next(iter(lists.values())).shape[1]
    values = {}
    for system, ranked in lists.items():
        found = (ranked[owner] == task.targets[:, None]).any(axis=1)
        hits = np.zeros_like(counts)
        np.add.at(hits, (group[found], owner[found]), 1.0)
        pairs = zip(hits[shown], counts[shown], strict=True)
        values[system] = tuple(ratio_with_interval(h, c) for h, c in pairs)
    return Slices(
        "By popularity of what was to be found",
        f"Share of the held-out items that are among the first {k}. Items are ranked by training events and "
        "cut into ten groups of equal number: 1 holds the rarest items, 10 the most popular; "
        "cold items have no training event. "
        "95 % intervals over users.",
        f"recall@{k}",
        "popularity decile of the item",
        "held-out items",
        ("cold", *(str(d + 1) for d in range(DECILES)))[shown],
        tuple(int(n) for n in counts[shown].sum(axis=1)),
        values,
    )


def popularity_deciles(item: NDArray[np.integer], n_items: int) -> NDArray[np.int64] | None:
    """Group 0 (rarest) to 9 of each item; equal counts by row number. None with fewer than ten items."""
    if n_items < DECILES:
        return None
    order = np.argsort(np.bincount(item, minlength=n_items), kind="stable")
    deciles = np.empty(n_items, np.int64)
    deciles[order] = np.arange(n_items) * DECILES // n_items
    return deciles
