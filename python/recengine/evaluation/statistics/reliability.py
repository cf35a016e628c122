"""How reliable a system is over repeated runs: pass@k, pass^k, and their graded twins.

For item i with n runs and c_i successes, unbiased over the choice of k of the n runs:
pass@k = 1 - C(n - c_i, k)/C(n, k) (any of k succeeds; Chen et al., 2021),
pass^k = C(c_i, k)/C(n, k) (all k succeed; Yao et al., 2024).
For graded scores with sorted values m_(1) <= ... <= m_(n):
best@k = sum_j m_(j) C(j-1, k-1)/C(n, k), worst@k = sum_j m_(j) C(n-j, k-1)/C(n, k);
both reduce to the former for scores 0 and 1. The plug-in 1 - (1 - c/n)^k is biased and is not offered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import gammaln

from recengine.errors import DataError, UsageError
from recengine.evaluation.statistics.scores import score_matrix


def pass_at_k(successes: ArrayLike, n: int, k: int) -> NDArray[np.float64]:
    """Probability that any of k runs succeeds, for each item: float64 like ``successes``.

    Product form 1 - prod_{j=n-c+1..n} (1 - k/j), which neither overflows nor cancels. Raises UsageError for
    k > n: what was not run cannot be extrapolated.
    """
    counts = _counts(successes, n, k)
    by_count = np.empty(n + 1)
    for c in range(n + 1):
        by_count[c] = 1.0 if n - c < k else 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))
    return np.asarray(by_count[counts])


def pass_hat_k(successes: ArrayLike, n: int, k: int) -> NDArray[np.float64]:
    """Probability that all of k runs succeed, for each item."""
    counts = _counts(successes, n, k)
    by_count = np.array([float(np.prod((c - np.arange(k)) / (n - np.arange(k)))) for c in range(n + 1)])
    by_count[:k] = 0.0
    return np.asarray(by_count[counts])


def best_at_k(scores: ArrayLike, k: int) -> NDArray[np.float64]:
    """Expected best of k runs drawn without replacement, for each item of ``scores`` [items, runs]."""
    ordered = np.sort(score_matrix(scores, least_units=1), axis=1)
    n = ordered.shape[1]
    _check_k(n, k)
    return np.asarray(ordered @ _order_weights(n, k))


def worst_at_k(scores: ArrayLike, k: int) -> NDArray[np.float64]:
    """Expected worst of k runs drawn without replacement, for each item of ``scores`` [items, runs]."""
    ordered = np.sort(score_matrix(scores, least_units=1), axis=1)
    n = ordered.shape[1]
    _check_k(n, k)
    return np.asarray(ordered @ _order_weights(n, k)[::-1])


@dataclass(frozen=True)
class Interval:
    estimate: float
    low: float
    high: float


def item_bootstrap(
    values: ArrayLike,
    *,
    draws: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
) -> Interval:
    """Percentile interval of the mean over items (or of ``statistic`` over axis 1), items resampled.

    The bootstrap distribution of n items is too narrow by sqrt((n-1)/n) and knows no t quantile: the tails
    are taken at Phi(-sqrt(n/(n-1)) t_{n-1}) instead of (1 - confidence)/2 (expanded percentiles; Hesterberg,
    2015).
    """
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or column.size < 2:
        raise DataError("an interval needs at least two items", found=f"shape {column.shape}")
    over = statistic or (lambda rows: rows.mean(axis=1))
    generator = np.random.default_rng(seed)
    drawn = [
        over(column[generator.integers(0, column.size, (min(500, draws - at), column.size))])
        for at in range(0, draws, 500)
    ]
    n = column.size
    reach = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * np.sqrt(n / (n - 1))
    tail = float(stats.norm.sf(reach))
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    return Interval(float(over(column[None, :])[0]), float(low), float(high))


@dataclass(frozen=True)
class GraderNoise:
    """Pairs of runs of one item with identical output, and how many of them got different verdicts."""

    identical_pairs: int
    disagreeing_pairs: int

    @property
    def rate(self) -> float:
        """Share of identical pairs that were judged differently; NaN when no two outputs agree."""
        return self.disagreeing_pairs / self.identical_pairs if self.identical_pairs else float("nan")


def grader_noise(items: ArrayLike, outputs: ArrayLike, verdicts: ArrayLike) -> GraderNoise:
    """One row a run: the same item and the same output should get the same verdict."""
    groups: dict[tuple[object, object], list[object]] = {}
    for item, output, verdict in zip(
        np.asarray(items).tolist(), np.asarray(outputs).tolist(), np.asarray(verdicts).tolist(), strict=True
    ):
        groups.setdefault((item, output), []).append(verdict)
    identical = disagreeing = 0
    for given in groups.values():
        n = len(given)
        identical += n * (n - 1) // 2
        same = sum(
            count * (count - 1) // 2
            for count in np.unique(np.asarray(given, dtype=str), return_counts=True)[1]
        )
        disagreeing += n * (n - 1) // 2 - int(same)
    return GraderNoise(identical, disagreeing)


def _order_weights(n: int, k: int) -> NDArray[np.float64]:
    """Probability that the j-th smallest of n is the largest of k drawn: C(j-1, k-1)/C(n, k), j = 1..n."""
    j = np.arange(1, n + 1, dtype=np.float64)
    weights = np.zeros(n)
    valid = j >= k
    weights[valid] = np.exp(
        gammaln(j[valid]) - gammaln(k) - gammaln(j[valid] - k + 1)
        - (gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))
    )  # fmt: skip
    return np.asarray(weights / weights.sum())


def _check_k(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise UsageError(
            f"k = {k} runs were asked for where {n} were made",
            where="k",
            expected=f"1 to {n}",
            fix="make more runs; an extrapolation beyond them would be a guess",
        )


def _counts(successes: ArrayLike, n: int, k: int) -> NDArray[np.int64]:
    _check_k(n, k)
    counts = np.asarray(successes)
    whole = counts.astype(np.int64)
    if (whole != counts).any() or (whole < 0).any() or (whole > n).any():
        raise DataError(
            "success counts must be whole numbers between 0 and n", found=f"n = {n}", where="successes"
        )
    return whole
