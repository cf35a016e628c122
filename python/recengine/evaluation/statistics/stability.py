"""How alike the lists of repeated runs are."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from recengine.errors import DataError, UsageError


def jaccard(first: ArrayLike, second: ArrayLike) -> float:
    """|A and B| / |A or B| of two lists as sets; 1 for two empty lists."""
    a, b = set(np.asarray(first).tolist()), set(np.asarray(second).tolist())
    return len(a & b) / len(a | b) if a | b else 1.0


def rank_biased_overlap(first: ArrayLike, second: ArrayLike, *, p: float = 0.9) -> float:
    """Extrapolated rank-biased overlap of two lists of equal length n (Webber, Moffat and Zobel, 2010).

    RBO = A_n p^n + (1 - p)/p * sum_{d=1..n} A_d p^d, with A_d the share of common items among the first d.
    1 for identical lists, 0 for disjoint ones; p near 1 looks deeper.
    """
    a, b = np.asarray(first).tolist(), np.asarray(second).tolist()
    if len(a) != len(b) or not a:
        raise DataError(
            "two lists of the same, positive length are needed", found=f"{len(a)} and {len(b)} items"
        )
    if not 0 < p < 1:
        raise UsageError("p must lie strictly between 0 and 1", where="p", found=p)
    if len(set(a)) != len(a) or len(set(b)) != len(b):
        raise DataError("a ranked list names an item twice")
    seen_a: set[object] = set()
    seen_b: set[object] = set()
    common, total, agreement = 0, 0.0, 0.0
    for depth, (x, y) in enumerate(zip(a, b, strict=True), start=1):
        common += (x == y) + (x in seen_b) + (y in seen_a)
        seen_a.add(x)
        seen_b.add(y)
        agreement = common / depth
        total += agreement * p**depth
    return float(agreement * p ** len(a) + (1 - p) / p * total)


class ListStability(NamedTuple):
    """Mean overlap of the lists of one user in two runs: rank-biased (order counts) and Jaccard (sets)."""

    overlap: float
    jaccard: float


def list_stability(lists: ArrayLike, *, p: float = 0.9) -> ListStability:
    """Mean pairwise overlap of lists [runs, users, k] over pairs of runs and users. Raises DataError for one
    run."""
    table = np.asarray(lists)
    if table.ndim != 3 or table.shape[0] < 2:
        raise DataError("lists must be [runs, users, k] with at least two runs", found=f"shape {table.shape}")
    pairs = [
        (rank_biased_overlap(table[i, u], table[j, u], p=p), jaccard(table[i, u], table[j, u]))
        for i, j in combinations(range(table.shape[0]), 2)
        for u in range(table.shape[1])
    ]
    rbo, overlap = np.mean(pairs, axis=0)
    return ListStability(float(rbo), float(overlap))
