"""Beyond accuracy: what kind of items a list holds. A user with an empty list has no value (NaN)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recengine.contracts.metric import RankedLists
from recengine.evaluation.metrics.ranking import Values, ndcg
from recengine.evaluation.popularity import popularity_deciles

_PAIRS = 50_000  # of a chunk of Diversity


def mean_over_list(lists: RankedLists, value: Values, k: int) -> Values:
    """Mean of value[item] over the first k; NaN for an empty list."""
    items = lists.items[:, :k]
    held = items >= 0
    counts = held.sum(axis=1)
    if lists.n_items == 0:
        return np.full(items.shape[0], np.nan)
    sums = np.where(held, value[np.where(held, items, 0)], 0.0).sum(axis=1)
    return np.asarray(np.divide(sums, counts, out=np.full(counts.shape, np.nan), where=counts > 0))


class Novelty:
    name = "novelty"
    definition = (
        "mean over the first k of -log2(max(c_i, 1) / sum c), c_i the events of item i that may be seen"
    )
    higher_is_better = True

    def per_user(self, lists: RankedLists, k: int) -> Values:
        total = max(float(lists.popularity.sum()), 1.0)
        return mean_over_list(lists, -np.log2(np.maximum(lists.popularity, 1.0) / total), k)


class AveragePopularity:
    name = "average_popularity"
    definition = "mean over the first k of c_i, the events of item i that may be seen"
    higher_is_better = False

    def per_user(self, lists: RankedLists, k: int) -> Values:
        return mean_over_list(lists, lists.popularity, k)


class Diversity:
    """Distance inside a list, by who took both items: needs no item features."""

    name = "diversity"
    definition = (
        "1 - mean over pairs of the first k of n_ij / sqrt(n_i n_j), n_i the users who took i, n_ij both"
    )
    higher_is_better = True

    def per_user(self, lists: RankedLists, k: int) -> Values:
        items = lists.items[:, :k]
        found = np.full(items.shape[0], np.nan)
        if lists.history is None or items.shape[1] < 2 or items.shape[0] == 0:
            return found
        first, second = np.triu_indices(items.shape[1], 1)
        low = np.minimum(items[:, first], items[:, second])
        high = np.maximum(items[:, first], items[:, second])
        held = low >= 0
        keys, at = np.unique(low[held] * lists.n_items + high[held], return_inverse=True)
        likeness = np.zeros(low.shape)
        likeness[held] = _cosines(lists, keys // lists.n_items, keys % lists.n_items)[at]
        pairs = held.sum(axis=1)
        return np.asarray(1.0 - np.divide(likeness.sum(axis=1), pairs, out=found, where=pairs > 0))


def _cosines(lists: RankedLists, one: NDArray[np.int64], other: NDArray[np.int64]) -> Values:
    """Cosine of the user sets of pairs of items; 0 where nobody took one of them."""
    assert lists.history is not None
    takers = lists.history.csr("ones").T.tocsr()
    sizes = np.diff(takers.indptr).astype(np.float64)
    common = np.zeros(one.shape[0])
    for begin in range(0, one.shape[0], _PAIRS):
        part = slice(begin, begin + _PAIRS)
        common[part] = np.asarray(takers[one[part]].multiply(takers[other[part]]).sum(axis=1)).ravel()
    return np.asarray(common / np.sqrt(np.maximum(sizes[one] * sizes[other], 1.0)))


class TailNDCG:
    """NDCG@k that only counts targets from the rarest tenth of the catalogue."""

    name = "tail_ndcg"
    definition = "ndcg@k of the targets in the least popular tenth of the items; no value without one"
    higher_is_better = True

    def per_user(self, lists: RankedLists, k: int) -> Values:
        none = np.full(lists.items.shape[0], np.nan)
        if lists.targets is None or lists.indptr is None or lists.n_items == 0:
            return none
        tail = popularity_deciles(lists.popularity) == 0
        owner = np.repeat(np.arange(none.shape[0]), np.diff(lists.indptr))
        counts = np.bincount(owner[tail[lists.targets]], minlength=none.shape[0])
        hits = lists.hits & np.where(lists.items >= 0, tail[np.maximum(lists.items, 0)], False)
        return np.where(counts > 0, ndcg(hits, counts, k), none)
