"""Whether predicted probabilities come true: rows by falling into bins of equal number by prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from recengine.evaluation.labels import checked


@dataclass(frozen=True)
class Bin:
    """Mean prediction, share of clicks with its 95 % interval (Wilson), and rows."""

    predicted: float
    observed: float
    low: float
    high: float
    rows: int


def calibration_bins(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> list[Bin]:
    """Rows sorted by prediction, cut into at most ``bins`` of equal number (fewer where rows are few), lowest
    predictions first. Raises DataError."""
    wanted, given = checked(labels, probabilities)
    order = np.argsort(given, kind="stable")
    found = []
    for rows in np.array_split(order, min(bins, wanted.size)) if wanted.size else []:
        n, clicks = int(rows.size), float(wanted[rows].sum())
        low, high = wilson(clicks, n)
        found.append(Bin(float(given[rows].mean()), clicks / n, low, high, n))
    return found


def expected_error(bins: list[Bin]) -> float:
    """Expected calibration error: sum over bins of rows / all rows x |observed - predicted|."""
    rows = sum(one.rows for one in bins)
    return sum(abs(one.observed - one.predicted) * one.rows for one in bins) / rows if rows else float("nan")


def wilson(successes: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a share."""
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)
