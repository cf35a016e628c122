"""What another policy would have earned, from a log whose choices were made with known chances.

    plain  mean(v)                      what was logged
    IPS    mean(w v),  w = pi_e / pi_b  unbiased where pi_b > 0 wherever pi_e > 0
    SNIPS  sum(w v) / sum(w)            biased by order 1 / n, spread far smaller

pi_b: chance with which the log's policy made the choice, pi_e: chance with which the other one would have.
Sources: Horvitz and Thompson (1952); Swaminathan and Joachims, NeurIPS 2015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from recengine.errors import DataError
from recengine.evaluation.intervals import t_interval


@dataclass(frozen=True)
class PolicyValue:
    """Three estimates, each (value, low, high) with a 95 % interval. effective: rows that the weights are
    worth, (sum w)^2 / sum w^2."""

    plain: tuple[float, float, float]
    ips: tuple[float, float, float]
    snips: tuple[float, float, float]
    effective: float


def policy_value(values: ArrayLike, logged: ArrayLike, wanted: ArrayLike) -> PolicyValue:
    """values: float [n], what each row earned (a click). logged: chance of the logged choice, above 0.
    wanted: chance that the other policy makes the same choice (0 or 1 for one that does not draw).

    The interval of SNIPS is that of its linearisation, w (v - SNIPS) / mean(w). Raises DataError for chances
    outside their range or when the other policy agrees with no row.
    """
    v, b, e = (np.asarray(one, np.float64) for one in (values, logged, wanted))
    if not v.shape == b.shape == e.shape or v.ndim != 1 or v.size == 0:
        raise DataError("one value and two chances a row are needed", found=(v.shape, b.shape, e.shape))
    if not ((b > 0) & (b <= 1)).all() or not ((e >= 0) & (e <= 1)).all():
        raise DataError("chances must lie in (0, 1] (logged) and [0, 1] (wanted)")
    w = e / b
    if not w.any():
        raise DataError(
            "the other policy makes none of the logged choices", expected="a row that it agrees with"
        )
    weighted = w * v
    ratio = float(weighted.sum() / w.sum())
    influence = w * (v - ratio) / float(w.mean())
    half = 1.96 * math.sqrt(float((influence**2).sum())) / v.size
    return PolicyValue(
        (float(v.mean()), *t_interval(v)),
        (float(weighted.mean()), *t_interval(weighted)),
        (ratio, ratio - half, ratio + half),
        float(w.sum() ** 2 / (w**2).sum()),
    )
