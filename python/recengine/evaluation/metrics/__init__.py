"""The standard metrics, by name.

Plugins bring more (hook ``recengine_register_metrics``); whoever holds a plugin host resolves their names and
passes the objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recengine.config import did_you_mean
from recengine.contracts.metric import CatalogueMetric, Metric, PlaceMetric
from recengine.errors import UsageError
from recengine.evaluation.metrics.beyond import AveragePopularity, Diversity, Novelty, TailNDCG
from recengine.evaluation.metrics.catalogue import Coverage, Gini
from recengine.evaluation.metrics.places import FullAUC, FullMRR, FullNDCG, Place
from recengine.evaluation.metrics.ranking import MAP, MRR, NDCG, HitRate, Precision, Recall

AnyMetric = Metric | PlaceMetric | CatalogueMetric

DEFAULT = (
    "hr",
    "recall",
    "precision",
    "ndcg",
    "mrr",
    "map",
    "novelty",
    "average_popularity",
    "coverage",
    "gini",
)

__all__ = [
    "DEFAULT",
    "MAP",
    "MRR",
    "NDCG",
    "AnyMetric",
    "AveragePopularity",
    "Coverage",
    "Diversity",
    "FullAUC",
    "FullMRR",
    "FullNDCG",
    "Gini",
    "HitRate",
    "Novelty",
    "Place",
    "Precision",
    "Recall",
    "TailNDCG",
    "built_in_metrics",
    "column_name",
    "resolve_metrics",
]


def built_in_metrics() -> dict[str, AnyMetric]:
    """Every standard metric by name."""
    made: list[AnyMetric] = [
        HitRate(),
        Recall(),
        Precision(),
        NDCG(),
        MRR(),
        MAP(),
        Novelty(),
        AveragePopularity(),
        Diversity(),
        TailNDCG(),
        Coverage(),
        Gini(),
        Place(),
        FullMRR(),
        FullNDCG(),
        FullAUC(),
    ]
    return {metric.name: metric for metric in made}


def column_name(metric: AnyMetric, k: int) -> str:
    """'ndcg@10'; the bare name for a metric without a cut-off."""
    return f"{metric.name}@{k}" if k else metric.name


def resolve_metrics(
    wanted: Sequence[str | AnyMetric] | None, cutoffs: Sequence[int]
) -> list[tuple[AnyMetric, int]]:
    """Metric and cut-off of each column, in order: every metric at every cut-off; a name like 'ndcg@20' at
    its own. A metric of places has no cut-off: 0. None: the default set.

    Raises UsageError for an unknown name (with a did-you-mean), something that is no metric, and a cut-off
    that is no whole number of 1 to 1000.
    """
    known = built_in_metrics()
    columns: list[tuple[AnyMetric, int]] = []
    for entry in DEFAULT if wanted is None else wanted:
        own: Sequence[Any] = cutoffs
        if isinstance(entry, str):
            name, at, cutoff = entry.partition("@")
            if name not in known:
                near = did_you_mean(name, list(known))
                raise UsageError(
                    f"there is no metric '{name}'",
                    where="metrics",
                    expected="one of " + ", ".join(known),
                    fix=f"did you mean '{near}'?" if near else "pass a plugin's metric as an object",
                )
            entry, own = known[name], ([cutoff] if at else cutoffs)
            if at and isinstance(entry, PlaceMetric):
                raise UsageError(
                    f"'{name}' has no cut-off", where="metrics", found=f"'{name}@{cutoff}'", fix=f"'{name}'"
                )
        elif not isinstance(entry, AnyMetric):
            raise UsageError(
                "this is no metric",
                where="metrics",
                found=repr(entry),
                expected="a name, or an object with per_user, of_places or over_catalogue",
            )
        columns += [(entry, 0)] if isinstance(entry, PlaceMetric) else [(entry, _cutoff(k)) for k in own]
    distinct = {column_name(metric, k): (metric, k) for metric, k in columns}
    return list(distinct.values())


def _cutoff(k: Any) -> int:
    try:
        value = int(k)
    except (TypeError, ValueError):
        value = 0
    if not 1 <= value <= 1000 or (not isinstance(k, str) and value != k):
        raise UsageError(
            "not a cut-off", where="cutoffs", found=repr(k), expected="a whole number of 1 to 1000"
        )
    return value
