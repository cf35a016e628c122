"""Checks of score matrices, shared by every statistic: never a silent number from bad input."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recengine.errors import DataError


def score_matrix(scores: ArrayLike, *, name: str = "scores", least_units: int = 2) -> NDArray[np.float64]:
    """``scores`` as float64 [units, runs]; DataError on NaN, infinities, too few units, wrong shape."""
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2:
        raise DataError(
            "scores must form a table of units (rows) by runs (columns)",
            where=name,
            found=f"{matrix.ndim} dimensions of shape {matrix.shape}",
            expected="2 dimensions",
        )
    if matrix.shape[0] < least_units or matrix.shape[1] < 1:
        raise DataError(
            "too few units or runs",
            where=name,
            found=f"{matrix.shape[0]} units x {matrix.shape[1]} runs",
            expected=f"at least {least_units} units and 1 run",
        )
    bad = ~np.isfinite(matrix)
    if bad.any():
        unit, run = np.argwhere(bad)[0]
        raise DataError(
            f"{int(bad.sum())} of {matrix.size} scores are missing or infinite",
            where=f"{name}, first at unit {unit}, run {run}",
            found=str(matrix[unit, run]),
            expected="finite numbers",
            fix="drop the units that were not scored in every run, or score them",
        )
    return matrix
