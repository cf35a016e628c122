"""Labels and scores of rows, checked."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recengine.errors import DataError

Values = NDArray[np.float64]


def checked(labels: ArrayLike, scores: ArrayLike) -> tuple[Values, Values]:
    """Both as float64 [n]; raises DataError for other shapes, labels that are not 0 or 1 and NaN scores."""
    wanted, given = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if wanted.ndim != 1 or wanted.shape != given.shape:
        raise DataError(
            "one score a label is needed", where="scores", found=given.shape, expected=f"{wanted.shape}, 1-d"
        )
    if not np.isin(wanted, (0.0, 1.0)).all():
        raise DataError("labels must be 0 or 1", where="labels", found=np.unique(wanted)[:5].tolist())
    if np.isnan(given).any():
        raise DataError("a score is NaN", where="scores", found=f"row {int(np.isnan(given).argmax())}")
    return wanted, given
