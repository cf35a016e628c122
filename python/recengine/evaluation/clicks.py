"""Metrics of click models: a probability and a label a row, no lists."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from recengine.contracts.batch import FeatureBatch
from recengine.contracts.model import PredictsClicks
from recengine.data.clicks.table import NOBODY
from recengine.errors import DataError
from recengine.evaluation.calibration import calibration_bins, expected_error
from recengine.evaluation.labels import Values, checked

DEFINITIONS = {
    "auc": "chance that a clicked row scores above one that was not, equal scores counting one half",
    "gauc": "mean of the AUCs of the groups, weighted by rows; groups with one label left out",
    "log_loss": "mean of -(y log p + (1 - y) log(1 - p))",
    "normalised_entropy": "log loss over that of always predicting the part's own click rate",
    "brier": "mean of (p - y)^2",
    "ece": "mean over rows of |mean prediction - click rate| of the row's bin, bins of equal number, "
    "equal predictions in one bin",
    "calibration": "sum of predictions over number of clicks",
}
LOWER_IS_BETTER = frozenset({"log_loss", "normalised_entropy", "brier", "ece"})


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Chance that a positive row scores above a negative one, equal scores counting one half:
    (sum of the positives' mid-ranks - P (P + 1) / 2) / (P N). NaN without both labels. Raises DataError."""
    wanted, given = checked(labels, scores)
    return float(_group_aucs(wanted, given, np.zeros(wanted.size, np.int64), 1)[0])


def auc_interval(labels: ArrayLike, scores: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Normal interval of the AUC with DeLong's variance, s10 / P + s01 / N, from the share of negatives that
    each positive beats and of positives that each negative loses to.

    NaN without both labels. Source: DeLong et al., Biometrics 1988; by mid-ranks as Sun and Xu (2014).
    """
    from scipy import stats

    beats, loses, _ = _placements(labels, scores)
    if beats.size < 2 or loses.size < 2:
        return math.nan, math.nan
    spread = math.sqrt(float(beats.var(ddof=1)) / beats.size + float(loses.var(ddof=1)) / loses.size)
    half = float(stats.norm.ppf((1 + confidence) / 2)) * spread
    area = float(beats.mean())
    return area - half, area + half


def auc_parts(labels: ArrayLike, scores: ArrayLike) -> Values:
    """float64 [n]: a number a row whose mean is the AUC, with DeLong's variance of that mean, so that two
    models can be compared row by row: A + (n / P) (v - A) for a positive row that beats the share v of the
    negatives, A + (n / N) (v - A) for a negative row that loses to the share v of the positives. NaN without
    both labels.
    """
    beats, loses, positive = _placements(labels, scores)
    if not beats.size or not loses.size:
        return np.full(positive.size, np.nan)
    area, parts = beats.mean(), np.empty(positive.size)
    parts[positive] = area + positive.size / beats.size * (beats - area)
    parts[~positive] = area + positive.size / loses.size * (loses - area)
    return parts


def _placements(labels: ArrayLike, scores: ArrayLike) -> tuple[Values, Values, NDArray[np.bool_]]:
    """Share of the negatives that each positive row beats, share of the positives that each negative row
    loses to (half of the ties), which rows are positive."""
    from scipy import stats

    wanted, given = checked(labels, scores)
    positive = wanted > 0
    p, n = int(positive.sum()), int((~positive).sum())
    if p == 0 or n == 0:
        return np.empty(0), np.empty(0), positive
    overall = stats.rankdata(given)
    beats = (overall[positive] - stats.rankdata(given[positive])) / n
    loses = 1.0 - (overall[~positive] - stats.rankdata(given[~positive])) / p
    return beats, loses, positive


def gauc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> float:
    """Mean of the AUCs of the groups (users), weighted by their rows; groups with only one label are left
    out (Zhu et al., KDD 2017), and so are rows of NOBODY. NaN when none is left. Raises DataError."""
    each, rows = group_aucs(labels, scores, groups)
    return float(np.average(each, weights=rows)) if rows.size else float("nan")


def group_aucs(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> tuple[Values, NDArray[np.int64]]:
    """AUC and number of rows of each group that has both labels, groups in rising order. Rows of NOBODY
    (``data.clicks.table``), of which the group is missing, are left out: they are not one user."""
    wanted, given = checked(labels, scores)
    owner = np.asarray(groups)
    if owner.shape != wanted.shape:
        raise DataError("one group a row is needed", where="groups", found=owner.shape, expected=wanted.shape)
    known = owner != NOBODY
    wanted, given = wanted[known], given[known]
    _, code = np.unique(owner[known], return_inverse=True)
    n = int(code.max()) + 1 if code.size else 0
    each = _group_aucs(wanted, given, code.astype(np.int64), n)
    rows = np.bincount(code, minlength=n)
    return each[~np.isnan(each)], rows[~np.isnan(each)]


def row_losses(labels: ArrayLike, probabilities: ArrayLike, *, clip: float = 1e-15) -> Values:
    """-(y log p + (1 - y) log(1 - p)) of each row, natural logarithm, p kept within [clip, 1 - clip].
    Raises DataError for probabilities outside [0, 1]."""
    wanted, given = checked(labels, probabilities)
    if given.size and (given.min() < 0 or given.max() > 1):
        raise DataError(
            "probabilities must lie in [0, 1]", where="probabilities", found=f"{given.min()} to {given.max()}"
        )
    p = np.clip(given, clip, 1 - clip)
    return np.asarray(-(wanted * np.log(p) + (1 - wanted) * np.log1p(-p)))


def log_loss(labels: ArrayLike, probabilities: ArrayLike, *, clip: float = 1e-15) -> float:
    """Mean of ``row_losses``; NaN without rows."""
    losses = row_losses(labels, probabilities, clip=clip)
    return float(losses.mean()) if losses.size else float("nan")


def normalised_entropy(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Log loss over H(r), the log loss of always predicting the rows' own click rate r. Below 1: better than
    knowing nothing but r. NaN without both labels. Source: He et al., ADKDD 2014."""
    wanted, _ = checked(labels, probabilities)
    rate = float(wanted.mean()) if wanted.size else math.nan
    if not 0 < rate < 1:
        return math.nan
    return log_loss(labels, probabilities) / -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))


def click_metrics(
    labels: ArrayLike, probabilities: ArrayLike, groups: ArrayLike | None, bins: int = 10
) -> dict[str, float]:
    """The metrics that are defined for these rows, by name; without intervals. bins: of the ECE."""
    wanted, given = checked(labels, probabilities)
    found = {
        "auc": auc(wanted, given),
        "gauc": math.nan if groups is None else gauc(wanted, given, groups),
        "log_loss": log_loss(wanted, given),
        "normalised_entropy": normalised_entropy(wanted, given),
        "brier": float(((given - wanted) ** 2).mean()) if wanted.size else math.nan,
        "ece": expected_error(calibration_bins(wanted, given, bins)) if wanted.size else math.nan,
        "calibration": float(given.sum() / wanted.sum()) if wanted.any() else math.nan,
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def predictions(model: PredictsClicks, batches: Iterable[FeatureBatch]) -> Values:
    """float64 [n]: the probability of every row. Raises DataError when one is no number."""
    with torch.inference_mode():
        parts = [model.predict(batch).double().cpu().numpy() for batch in batches]
    found = np.concatenate(parts) if parts else np.zeros(0)
    if not np.isfinite(found).all():
        raise DataError("a prediction is no number", where=f"row {int(np.argmin(np.isfinite(found)))}")
    return found


def _group_aucs(labels: Values, scores: Values, code: NDArray[np.int64], n: int) -> Values:
    """AUC of each of n groups by mid-ranks inside the group."""
    order = np.lexsort((scores, code))
    owner, value = code[order], scores[order]
    start = np.ones(owner.size, bool)
    start[1:] = (owner[1:] != owner[:-1]) | (value[1:] != value[:-1])
    run = np.cumsum(start) - 1
    first = np.flatnonzero(start)
    last = np.append(first[1:], owner.size)
    group_first = np.searchsorted(owner, np.arange(n))
    middle = ((first + last - 1) / 2)[run] - group_first[owner] + 1  # ranks from 1, ties share the middle
    positives = np.bincount(code, weights=labels, minlength=n)
    negatives = np.bincount(code, minlength=n) - positives
    ranked = np.bincount(owner, weights=middle * labels[order], minlength=n)
    pairs = positives * negatives
    won = ranked - positives * (positives + 1) / 2
    return np.asarray(np.divide(won, pairs, out=np.full(n, np.nan), where=pairs > 0))
