"""Whether predicted probabilities come true: observed shares beside predictions, in bins of equal size."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from recengine.errors import DataError
from recengine.reports.content import Calibration, Estimate


def calibration_of(
    system: str, labels: ArrayLike, probabilities: ArrayLike, *, bins: int = 10
) -> Calibration:
    """Rows sorted by prediction and cut into ``bins`` of equal number; Wilson's 95 % interval of each share.

    labels: 0 or 1, probabilities: in [0, 1], one a row (a model that ``PredictsClicks``). Raises DataError
    for anything else, and for fewer rows than bins.
    """
    wanted, given = np.asarray(labels, np.float64), np.asarray(probabilities, np.float64)
    if wanted.ndim != 1 or wanted.shape != given.shape:
        raise DataError("one probability a label is needed", found=f"shapes {wanted.shape} and {given.shape}")
    if not np.isin(wanted, (0.0, 1.0)).all():
        raise DataError("labels must be 0 or 1", where="labels")
    if not ((given >= 0) & (given <= 1)).all():
        raise DataError("probabilities must lie in [0, 1]", where="probabilities")
    if wanted.size < bins:
        raise DataError(
            "too few rows for so many bins", found=f"{wanted.size} rows", expected=f"{bins} or more"
        )
    order = np.argsort(given, kind="stable")
    told, error = [], 0.0
    for rows in np.array_split(order, bins):
        predicted, observed, n = float(given[rows].mean()), float(wanted[rows].mean()), int(rows.size)
        interval = stats.binomtest(int(wanted[rows].sum()), n).proportion_ci(method="wilson")
        told.append((predicted, Estimate(observed, float(interval.low), float(interval.high), n)))
        error += abs(observed - predicted) * n / wanted.size
    return Calibration(system, tuple(told), error, float(np.mean((given - wanted) ** 2)))
