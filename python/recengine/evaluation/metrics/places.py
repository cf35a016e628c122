"""Metrics of the exact place of the only target, without a cut-off: with p the place (1 is first) among n
ranked items. A target that is never retrieved counts as last."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Counts = NDArray[np.int64]


def _last_where_missing(places: Counts, n_ranked: Counts) -> Values:
    return np.where(places > 0, places, np.maximum(n_ranked, 1)).astype(np.float64)


class Place:
    name = "place"
    definition = "p, the place of the only target among all ranked items"
    higher_is_better = False

    def of_places(self, places: Counts, n_ranked: Counts) -> Values:
        return _last_where_missing(places, n_ranked)


class FullMRR:
    name = "full_mrr"
    definition = "1 / p without a cut-off; 0 where the target is never retrieved"
    higher_is_better = True

    def of_places(self, places: Counts, n_ranked: Counts) -> Values:
        return np.where(places > 0, 1.0 / np.maximum(places, 1), 0.0)


class FullNDCG:
    name = "full_ndcg"
    definition = "1 / log2(p + 1) without a cut-off; 0 where the target is never retrieved"
    higher_is_better = True

    def of_places(self, places: Counts, n_ranked: Counts) -> Values:
        return np.where(places > 0, 1.0 / np.log2(np.maximum(places, 1) + 1.0), 0.0)


class FullAUC:
    name = "full_auc"
    definition = "(n - p) / (n - 1), the share of the other ranked items that come after the target"
    higher_is_better = True

    def of_places(self, places: Counts, n_ranked: Counts) -> Values:
        others = np.asarray(n_ranked, np.float64) - 1
        after = n_ranked - _last_where_missing(places, n_ranked)
        return np.asarray(np.divide(after, others, out=np.full(places.shape, np.nan), where=others > 0))
