"""Sampled candidate sets: the targets of a user among n items that are neither targets nor seen.

A sampled metric is no estimate of the full one and may order systems differently (Krichene and Rendle,
KDD 2020): it is only taken on request, and the protocol says so.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recengine.data import EvalTask
from recengine.evaluation.protocol import Protocol


def sampled_candidates(task: EvalTask, rows: slice, protocol: Protocol) -> NDArray[np.int64]:
    """int64 [users, width], ascending item rows, -1 behind: the distinct targets and n sampled items of each
    user of ``task.users[rows]`` (fewer where the catalogue has no more).

    Draws are without replacement, uniform or in proportion to the events of the history. They depend on the
    protocol's seed and the user alone, not on the block or the order of the users.
    """
    assert protocol.sampled is not None
    kind, n = protocol.sampled
    n_items = task.history.n_items
    weights = task.history.popularity().astype(np.float64) if kind == "popularity" else np.ones(n_items)
    sets = []
    for at in range(rows.start, min(rows.stop, len(task))):
        user = int(task.users[at])
        targets = np.unique(task.targets[task.indptr[at] : task.indptr[at + 1]])
        seen = task.history.item[task.history.indptr[user] : task.history.indptr[user + 1]]
        generator = np.random.default_rng([protocol.seed, user])
        taken = np.zeros(n_items, bool)
        taken[targets] = True
        taken[seen] = True
        sets.append(np.sort(np.concatenate([targets, _draw(generator, weights, taken, n)])))
    width = max((len(s) for s in sets), default=0)
    found = np.full((len(sets), width), -1, np.int64)
    for row, members in zip(found, sets, strict=True):
        row[: len(members)] = members
    return found


def _draw(
    generator: np.random.Generator, weights: NDArray[np.float64], taken: NDArray[np.bool_], n: int
) -> NDArray[np.int64]:
    """n distinct items that are not taken, in proportion to the weights: the n smallest of exponential
    variables with the weights as rates (Efraimidis and Spirakis 2006)."""
    free = np.flatnonzero(~taken & (weights > 0))
    if free.size <= n:
        return free
    keys = generator.standard_exponential(free.size) / weights[free]
    return np.asarray(free[np.argpartition(keys, n)[:n]], np.int64)
