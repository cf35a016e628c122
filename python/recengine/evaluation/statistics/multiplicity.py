"""Corrections for several comparisons at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p values that control the probability of any false claim (Holm, 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(p.size, 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p values that control the expected share of false claims (Benjamini and Hochberg, 1995)."""
    return np.asarray(stats.false_discovery_control(np.asarray(p_values, dtype=np.float64)))
