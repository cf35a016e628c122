"""Intervals of a mean over users."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def exact_mean(values: Values) -> float:
    """The mean of the correctly rounded sum: the same whatever the order of the values."""
    return float(math.fsum(values.tolist()) / values.shape[0])


def t_interval(values: Values, confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean: mean -+ t_{n-1} s / sqrt(n). One value has none: (mean, mean)."""
    n = values.shape[0]
    mean = exact_mean(values)
    if n < 2:
        return mean, mean
    from scipy import stats

    spread = math.sqrt(math.fsum(((values - mean) ** 2).tolist()) / (n - 1))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * spread / math.sqrt(n)
    return mean - half, mean + half


def bootstrap_interval(
    values: Values, confidence: float = 0.95, *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap over users of the mean; NaN left out. Use it where the values are very uneven
    and users few. ``recengine.evaluation.statistics`` holds what several seeds need."""
    values = values[~np.isnan(values)]
    n = values.shape[0]
    if n == 0:
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    for i in range(draws):
        means[i] = values[generator.integers(0, n, n)].mean()
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
