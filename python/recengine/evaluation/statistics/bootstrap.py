"""Two-level bootstrap of crossed tables: users and seeds are resampled independently.

A draw weights user i by how often it was drawn (u_i) and seed s likewise (v_s): the mean of the draw is
sum u_i v_s D[i, s] / (U S) (Owen's pigeonhole bootstrap). The user weights are shared by all metrics, so
that the draws keep the dependence between metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recengine.errors import DataError
from recengine.evaluation.statistics.scores import score_matrix

_CHUNK = 64  # draws a task: the weights of a chunk stay below 64 MB for 100,000 users


@dataclass(frozen=True)
class CrossedBootstrap:
    """means [draws] by metric, with the estimate and its percentile interval."""

    estimate: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    confidence: float
    draws: dict[str, NDArray[np.float64]]


def crossed_bootstrap(
    differences: Mapping[str, ArrayLike],
    *,
    draws: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
    resample_seeds: bool = True,
    threads: int | None = None,
) -> CrossedBootstrap:
    """Percentile intervals of the mean of each metric's table [users, seeds].

    ``resample_seeds=False`` keeps the seeds as they are. The draws depend on ``seed`` only, not on
    ``threads``. Raises DataError when the tables differ in shape.
    """
    tables = {name: score_matrix(table, name=name) for name, table in differences.items()}
    shapes = {name: table.shape for name, table in tables.items()}
    if len(set(shapes.values())) != 1:
        raise DataError(
            "the metrics were measured on tables of different shape",
            found=", ".join(f"{name} {shape}" for name, shape in shapes.items()),
            expected="the same users and seeds for every metric",
        )
    users, seeds = next(iter(shapes.values()))
    stacked = np.concatenate(list(tables.values()), axis=1)  # [users, metrics * seeds]
    chunks = -(-draws // _CHUNK)
    streams = np.random.SeedSequence(seed).spawn(chunks)

    def one(chunk: int) -> NDArray[np.float64]:
        n = min(_CHUNK, draws - chunk * _CHUNK)
        generator = np.random.Generator(np.random.SFC64(streams[chunk]))
        weights = np.empty((n, users), np.float64)
        for row in weights:
            row[:] = np.bincount(generator.integers(0, users, users, dtype=np.int32), minlength=users)
        sums = (weights @ stacked).reshape(n, len(tables), seeds)
        if resample_seeds:
            of_seed = generator.multinomial(seeds, np.full(seeds, 1.0 / seeds), size=n)
        else:
            of_seed = np.ones((n, seeds), np.int64)
        return np.asarray(np.einsum("nms,ns->nm", sums, of_seed) / (users * seeds))

    with ThreadPoolExecutor(threads) as pool:
        means = np.concatenate(list(pool.map(one, range(chunks))))
    tail = (1 - confidence) / 2
    lows, highs = np.quantile(means, [tail, 1 - tail], axis=0)
    return CrossedBootstrap(
        {name: float(table.mean()) for name, table in tables.items()},
        dict(zip(tables, lows.tolist(), strict=True)),
        dict(zip(tables, highs.tolist(), strict=True)),
        confidence,
        {name: means[:, at] for at, name in enumerate(tables)},
    )
