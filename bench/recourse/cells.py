"""One cell of the benchmarks: a table, a seed, a fold; standardised, fitted, with the rejected test people.

The loss of every linear model is mean log-loss + (l2/2)|theta|^2 with the bias in the penalty, because that
is the loss whose Hessian the library ``ellice`` uses; both sides get the same theta and H.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tables
from numpy.typing import NDArray

from recengine_plugins.ellice.logistic import FittedLayer, fit_layer, logistic_problem
from recengine_plugins.ellice.rashomon import Ellipsoid, eps_from_level

Array = NDArray[np.float64]
L2 = 1e-3
EPS = 0.01
SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Cell:
    """X, y: training rows, standardised. rejected: test rows that the model turns down.
    low, high [d]: the box, least and greatest training value (what the library clips to)."""

    name: str
    seed: int
    fold: int
    X: Array
    y: NDArray[np.int64]
    test: Array
    test_y: NDArray[np.int64]
    layer: FittedLayer
    table: tables.Table

    @property
    def low(self) -> Array:
        return self.X.min(axis=0)

    @property
    def high(self) -> Array:
        return self.X.max(axis=0)

    @property
    def rejected(self) -> Array:
        return self.test[with_bias(self.test) @ self.layer.theta < 0]

    def box(self, people: Array) -> tuple[Array, Array]:
        """Bounds [N, d]; a person outside the box may stay outside."""
        return np.minimum(self.low, people), np.maximum(self.high, people)

    def star(self) -> float:
        return Ellipsoid.of(self.layer, 0.0).largest_eps()

    def default_eps(self) -> float:
        """The product's: chi-square level 0.95 for the whole model, at most half of eps*."""
        return min(eps_from_level(self.layer, 0.95, joint=True), 0.5 * self.star())


def with_bias(x: Array) -> Array:
    return np.c_[x, np.ones(len(x))]


def cells(
    name: str, seeds: tuple[int, ...] = SEEDS, most_rows: int | None = 8000, count: int = 4
) -> Iterator[Cell]:
    table = tables.load(name, most_rows)
    for seed in seeds:
        for fold, (train, test) in enumerate(tables.folds(table, seed, count)):
            scale = tables.Scale.of(table.X[train])
            X, y = scale(table.X[train]), table.y[train]
            layer = fit_layer(logistic_problem(X, y, l2=L2, penalise_bias=True))
            yield Cell(name, seed, fold, X, y, scale(table.X[test]), table.y[test], layer, table)


def interval(values: Array, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of values, or of [seeds, folds] where whole seeds are drawn."""
    values = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    if values.ndim == 1:
        drawn = values[generator.integers(len(values), size=(draws, len(values)))].mean(axis=1)
    else:
        s, f = values.shape
        chosen = values[generator.integers(s, size=(draws, s))]
        drawn = chosen.mean(axis=(1, 2)) if f else np.zeros(draws)
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))
