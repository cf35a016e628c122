"""Recourse that is exact for the true set of near-optimal models, by cutting planes.

The robust region is the intersection of the half-spaces theta.h(x) >= tau over all models with
L(theta) <= L* + eps. Start from few, solve, find the model that likes the answer least (``true_worst``,
with a rigorous bound), add it, repeat. The last answer is certified by the bound of its worst logit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recengine_plugins.ellice import conic
from recengine_plugins.ellice.logistic import FittedLayer
from recengine_plugins.ellice.rashomon import Ellipsoid, true_worst

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TrueSetAnswer:
    """x: the point; worst: a bound below which no near-optimal model scores it; cuts: models used."""

    x: Array
    worst: float
    cuts: int


def solve_true_set(
    layer: FittedLayer,
    eps: float,
    person: Array,
    weights: Array,
    low: Array,
    high: Array,
    *,
    tau: float,
    most_cuts: int = 60,
    tolerance: float = 1e-7,
) -> TrueSetAnswer | None:
    """The cheapest point that every near-optimal model accepts; None when there is none within the bounds.

    The answer may fall short of tau by ``tolerance`` in logit before the last step, which moves it inside.
    """
    ellipsoid = Ellipsoid.of(layer, eps)
    h = np.r_[person, 1.0]
    start = true_worst(layer, eps, h)
    if start.bound >= tau:
        return TrueSetAnswer(person.copy(), start.bound, 0)
    cuts = [layer.theta, start.theta]
    for _ in range(most_cuts):
        x = conic.solve(ellipsoid, person, weights, low, high, tau=tau + tolerance, cuts=np.stack(cuts))
        if x is None:
            return None
        worst = true_worst(layer, eps, np.r_[x, 1.0])
        if worst.bound >= tau:
            return TrueSetAnswer(x, worst.bound, len(cuts))
        cuts.append(worst.theta)
    return None
