"""Whether predicted probabilities come true: rows by falling into bins of equal number by prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    """The bins that ``bin_numbers`` cuts, lowest predictions first. Raises DataError."""
    wanted, given = checked(labels, probabilities)
    code = bin_numbers(given, bins)
    found = []
    for n, clicks, predicted in zip(
        np.bincount(code), np.bincount(code, wanted), np.bincount(code, given), strict=True
    ):
        low, high = wilson(float(clicks), int(n))
        found.append(Bin(float(predicted / n), float(clicks / n), low, high, int(n)))
    return found


def bin_numbers(probabilities: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """int64 [n], from 0: the bin of each row when the rows are sorted by prediction and cut into at most
    ``bins`` of equal number (fewer where rows are few). Equal predictions share the bin of their middle row,
    so that the order of the rows does not matter."""
    n = probabilities.shape[0]
    if n == 0:
        return np.zeros(0, np.int64)
    ordered = np.sort(probabilities)
    first = np.searchsorted(ordered, probabilities, side="left")
    last = np.searchsorted(ordered, probabilities, side="right") - 1
    cut = np.repeat(np.arange(min(bins, n)), [part.size for part in np.array_split(ordered, min(bins, n))])
    return np.unique(cut[(first + last) // 2], return_inverse=True)[1].astype(np.int64)


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
