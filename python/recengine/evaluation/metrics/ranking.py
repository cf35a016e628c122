"""Accuracy of a ranked list. With rel(r) = 1 where the item at rank r (from 1) is a target, T the number of
targets of the user and k the cut-off. A user without targets has no value (NaN)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from recengine.contracts.metric import RankedLists

Values = NDArray[np.float64]


def where_asked(lists: RankedLists, values: NDArray[np.float64] | np.float64) -> Values:
    """``values`` with NaN for users without targets."""
    return np.where(lists.n_targets > 0, values, np.nan)


@lru_cache(maxsize=16)
def discounts(k: int) -> Values:
    """1 / log2(r + 1) for r = 1 .. k."""
    weights: Values = 1.0 / np.log2(np.arange(2, k + 2))
    weights.setflags(write=False)
    return weights


@lru_cache(maxsize=16)
def ideal_gains(k: int) -> Values:
    """[k + 1], the best DCG@k with 0, 1, .., k targets."""
    gains = np.concatenate([np.zeros(1), np.cumsum(discounts(k))])
    gains.setflags(write=False)
    return gains


def ndcg(hits: NDArray[np.bool_], n_targets: NDArray[np.int64], k: int) -> Values:
    """DCG of the first k over the best possible one; 0 where there is no target."""
    cut = hits[:, :k]
    ideal = ideal_gains(k)[np.minimum(n_targets, k)]
    gained = cut @ discounts(k)[: cut.shape[1]]
    return np.asarray(np.divide(gained, ideal, out=np.zeros_like(gained), where=ideal > 0))


class HitRate:
    name = "hr"
    definition = "1 if any of the first k is a target, else 0"
    higher_is_better = True

    def per_user(self, lists: RankedLists, k: int) -> Values:
        return where_asked(lists, lists.hits[:, :k].any(axis=1).astype(np.float64))


class Recall:
    name = "recall"
    definition = "sum_{r<=k} rel(r) / T"
    higher_is_better = True

    def per_user(self, lists: RankedLists, k: int) -> Values:
        return where_asked(lists, lists.hits[:, :k].sum(axis=1) / np.maximum(lists.n_targets, 1))


class Precision:
    name = "precision"
    definition = "sum_{r<=k} rel(r) / k, whatever the length of the list"
    higher_is_better = True

    def per_user(self, lists: RankedLists, k: int) -> Values:
        return where_asked(lists, lists.hits[:, :k].sum(axis=1) / k)


class NDCG:
    name = "ndcg"
    definition = "sum_{r<=k} rel(r) / log2(r + 1), over the same sum of min(T, k) targets ranked first"
    higher_is_better = True

    def per_user(self, lists: RankedLists, k: int) -> Values:
        return where_asked(lists, ndcg(lists.hits, lists.n_targets, k))


class MRR:
    name = "mrr"
    definition = "1 / rank of the first target among the first k, else 0"
    higher_is_better = True

    def per_user(self, lists: RankedLists, k: int) -> Values:
        cut = lists.hits[:, :k]
        if cut.shape[1] == 0:
            return where_asked(lists, np.zeros(cut.shape[0]))
        return where_asked(lists, np.where(cut.any(axis=1), 1.0 / (cut.argmax(axis=1) + 1.0), 0.0))


class MAP:
    name = "map"
    definition = "sum_{r<=k} rel(r) precision@r / min(T, k)"
    higher_is_better = True

    def per_user(self, lists: RankedLists, k: int) -> Values:
        cut = lists.hits[:, :k]
        ranks = np.arange(1, cut.shape[1] + 1)
        gained = (cut * (np.cumsum(cut, axis=1) / ranks)).sum(axis=1)
        return where_asked(lists, gained / np.maximum(np.minimum(lists.n_targets, k), 1))
