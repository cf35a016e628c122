"""Metrics of click models: a probability and a label a row, no lists."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from recengine.contracts.batch import FeatureBatch
from recengine.contracts.model import PredictsClicks
from recengine.errors import DataError

Values = NDArray[np.float64]


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Chance that a positive row scores above a negative one, equal scores counting one half:
    (sum of the positives' mid-ranks - P (P + 1) / 2) / (P N). NaN without both labels. Raises DataError."""
    wanted, given = _checked(labels, scores)
    return float(_group_aucs(wanted, given, np.zeros(wanted.size, np.int64), 1)[0])


def gauc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> float:
    """Mean of the AUCs of the groups (users), weighted by their rows; groups with only one label are left
    out (Zhu et al., KDD 2017). NaN when none is left. Raises DataError."""
    wanted, given = _checked(labels, scores)
    owner = np.asarray(groups)
    if owner.shape != wanted.shape:
        raise DataError("one group a row is needed", where="groups", found=owner.shape, expected=wanted.shape)
    _, code = np.unique(owner, return_inverse=True)
    n = int(code.max()) + 1 if code.size else 0
    each = _group_aucs(wanted, given, code.astype(np.int64), n)
    rows = np.bincount(code, minlength=n)[~np.isnan(each)]
    return float(np.average(each[~np.isnan(each)], weights=rows)) if rows.size else float("nan")


def log_loss(labels: ArrayLike, probabilities: ArrayLike, *, clip: float = 1e-15) -> float:
    """-mean(y log p + (1 - y) log(1 - p)), natural logarithm, p kept within [clip, 1 - clip]. NaN without
    rows. Raises DataError for probabilities outside [0, 1]."""
    wanted, given = _checked(labels, probabilities)
    if wanted.size == 0:
        return float("nan")
    if given.min() < 0 or given.max() > 1:
        raise DataError(
            "probabilities must lie in [0, 1]", where="probabilities", found=f"{given.min()} to {given.max()}"
        )
    p = np.clip(given, clip, 1 - clip)
    return float(-(wanted * np.log(p) + (1 - wanted) * np.log1p(-p)).mean())


@dataclass(frozen=True)
class ClickEvaluation:
    """auc, log_loss and, where groups were given, gauc, with the rows they come from."""

    auc: float
    log_loss: float
    gauc: float | None
    rows: int
    positives: int


def evaluate_clicks(
    model: PredictsClicks, batches: Iterable[FeatureBatch], *, group: str | None = None
) -> ClickEvaluation:
    """Predict every batch and measure. group: name of the feature (int64 [B]) whose values GAUC groups by.

    Raises DataError when the feature is missing or has several values a row.
    """
    labels, scores, groups = [], [], []
    with torch.inference_mode():
        for batch in batches:
            scores.append(_numpy(model.predict(batch)))
            labels.append(_numpy(batch.labels))
            if group is not None:
                column: Any = batch.features.get(group)
                if not isinstance(column, torch.Tensor):
                    raise DataError(
                        "GAUC needs a feature with one value a row", where="group", found=repr(group)
                    )
                groups.append(_numpy(column))
    wanted, given = _together(labels), _together(scores)
    return ClickEvaluation(
        auc(wanted, given),
        log_loss(wanted, given),
        None if group is None else gauc(wanted, given, _together(groups)),
        int(wanted.size),
        int(wanted.sum()),
    )


def _numpy(tensor: torch.Tensor) -> Values:
    return np.asarray(tensor.double().cpu().numpy(), np.float64)


def _together(parts: list[Values]) -> Values:
    return np.concatenate(parts) if parts else np.zeros(0)


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[Values, Values]:
    wanted, given = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if wanted.ndim != 1 or wanted.shape != given.shape:
        raise DataError(
            "one score a label is needed", where="scores", found=given.shape, expected=f"{wanted.shape}, 1-d"
        )
    if not np.isin(wanted, (0.0, 1.0)).all():
        raise DataError("labels must be 0 or 1", where="labels", found=np.unique(wanted)[:5].tolist())
    if np.isnan(given).any():
        raise DataError("a score is NaN", where="scores", found=f"row {int(np.isnan(given).argmax())}")
    return wanted, given


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
