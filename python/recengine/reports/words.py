"""Numbers and findings as a reader would say them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recengine.reports.content import Estimate

_NAMES = {
    "hr": "hit rate",
    "ndcg": "NDCG",
    "recall": "recall",
    "precision": "precision",
    "mrr": "MRR",
    "map": "MAP",
    "auc": "AUC",
    "gauc": "GAUC",
    "log_loss": "log loss",
    "normalised_entropy": "normalised entropy",
    "ece": "ECE",
    "brier": "Brier score",
    "coverage": "coverage",
    "gini": "Gini",
    "novelty": "novelty",
    "diversity": "diversity",
}

EXPLAINED = {
    "hr": "share of users for whom at least one target is among the first {k}",
    "ndcg": "targets among the first {k}, worth less the lower they stand; 1 is a perfect list",
    "recall": "share of a user's targets that are among the first {k}",
    "precision": "share of the first {k} that are targets",
    "mrr": "one over the place of the first target, 0 if it is not among the first {k}",
    "map": "mean, over targets, of the precision at their place within the first {k}",
    "auc": "chance that a clicked row scores above one that was not",
    "gauc": "the same within each user, weighted by rows",
    "log_loss": "mean surprise at what happened, natural logarithm; smaller is better",
    "normalised_entropy": "log loss over that of knowing the click rate alone; smaller is better",
    "brier": "mean squared distance of prediction and outcome; smaller is better",
    "ece": "mean distance of prediction and click rate over bins of equal number; smaller is better",
    "calibration": "predicted over observed clicks; 1 is right",
}


def metric_name(metric: str) -> str:
    """'ndcg@10' as 'NDCG@10', 'hr@10' as 'hit rate@10'; a name that is not known stays as it is."""
    stem, at, k = metric.partition("@")
    return f"{_NAMES.get(stem, stem)}{at}{k}"


def metric_meaning(metric: str) -> str:
    """What the metric counts, one clause; empty for a metric that is not known."""
    stem, _, k = metric.partition("@")
    return EXPLAINED.get(stem, "").format(k=k or "list")


def count(value: float) -> str:
    """1469307 as '1,469,307'."""
    return f"{value:,.0f}"


def short(value: float) -> str:
    """Three significant digits, no trailing noise: for ticks and settings."""
    if not math.isfinite(value):
        return "–"
    if value and (abs(value) >= 1e6 or abs(value) < 1e-4):
        return f"{value:.1e}".replace("e+0", "e").replace("e-0", "e−").replace("e+", "e").replace("e-", "e−")
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}".replace("-", "−")


def score(value: float) -> str:
    """A metric to four decimals below 10, three significant digits above."""
    if not math.isfinite(value):
        return "–"
    return (f"{value:.4f}" if abs(value) < 10 else short(value)).replace("-", "−")


def span(estimate: Estimate) -> str:
    """The ends of an interval, or that there is none."""
    if not estimate.has_interval:
        return "no interval"
    return f"{score(estimate.low)} to {score(estimate.high)}"


def signed(value: float) -> str:
    """A difference with its sign."""
    return ("+" if value >= 0 else "") + score(value)


def percent(share: float) -> str:
    """A share as percent with as many digits as it needs."""
    value = 100 * share
    if value == 0:
        return "0 %"
    return f"{value:.0f} %" if value >= 10 else f"{value:.1f} %" if value >= 1 else f"{value:.2g} %"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"


def listing(parts: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def relative(share: float) -> str:
    """A relative difference as signed percent."""
    if not math.isfinite(share):
        return "–"
    return f"{100 * share:+.1f} %".replace("-", "−")


def p_value(p: float) -> str:
    """A p value: two digits, never zero."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def setting(value: object) -> str:
    """A setting's value: numbers to three digits, the rest as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return str(value) if isinstance(value, int) else short(value)


def effect(size: float) -> str:
    """A standardised difference to two decimals."""
    return f"{size:+.2f}".replace("-", "−") if math.isfinite(size) else "–"
