"""Whether predicted probabilities come true: observed shares beside predictions, in bins of equal size."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from recengine.errors import DataError
from recengine.evaluation.calibration import calibration_bins, expected_error
from recengine.reports.content import Calibration, Estimate


def calibration_of(
    system: str, labels: ArrayLike, probabilities: ArrayLike, *, bins: int = 10
) -> Calibration:
    """Rows sorted by prediction and cut into ``bins`` of equal number, equal predictions in one;
    Wilson's 95 % interval of each share.

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
    found = calibration_bins(wanted, given, bins)
    told = tuple((one.predicted, Estimate(one.observed, one.low, one.high, one.rows)) for one in found)
    return Calibration(system, told, expected_error(found), float(np.mean((given - wanted) ** 2)))
