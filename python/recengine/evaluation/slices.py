"""Results by group of users."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recengine.data.groups import HISTORY_BUCKETS
from recengine.evaluation.popularity import DECILES
from recengine.evaluation.result import Estimate, Evaluation, estimate


def by_history_length(evaluation: Evaluation, metric: str) -> dict[str, Estimate]:
    """The metric's mean among users with 0, 1-5, 6-20 and 21 or more events that may be seen."""
    lengths = evaluation.per_user["n_history"].to_numpy()
    code = np.searchsorted([1, 6, 21], lengths, side="right")
    return _by(evaluation, metric, {name: code == i for i, name in enumerate(HISTORY_BUCKETS)})


def by_target_popularity(evaluation: Evaluation, metric: str) -> dict[str, Estimate]:
    """The metric's mean by the popularity decile of the user's targets (the median one of several, rounded
    down): "1" the rarest tenth of the items, "10" the most popular."""
    decile = evaluation.per_user["target_decile"].to_numpy()
    return _by(evaluation, metric, {str(d + 1): decile == d for d in range(DECILES)})


def _by(evaluation: Evaluation, metric: str, groups: dict[str, NDArray[np.bool_]]) -> dict[str, Estimate]:
    values = evaluation.values(metric)
    found = {name: estimate(metric, values[members]) for name, members in groups.items()}
    return {name: one for name, one in found.items() if one is not None}
