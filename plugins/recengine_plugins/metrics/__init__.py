"""The standard metrics, registered through the same door as anyone's."""

from __future__ import annotations

from typing import Any

from recengine.hooks import hookimpl

_HOME = "recengine.evaluation.metrics"
_STANDARD = {
    "hr": ("HitRate", "whether any of the first k is a target"),
    "recall": ("Recall", "share of the targets among the first k"),
    "precision": ("Precision", "share of the first k that are targets"),
    "ndcg": ("NDCG", "gain discounted by 1 / log2(rank + 1), over the best possible"),
    "mrr": ("MRR", "one over the rank of the first target"),
    "map": ("MAP", "mean precision at the targets"),
    "novelty": ("Novelty", "mean self-information of the items shown"),
    "average_popularity": ("AveragePopularity", "mean number of events of the items shown"),
    "diversity": ("Diversity", "how little the users of the items shown overlap"),
    "tail_ndcg": ("TailNDCG", "NDCG of the targets in the rarest tenth of the catalogue"),
    "coverage": ("Coverage", "share of the catalogue that is shown to anybody"),
    "place": ("Place", "exact place of the only target, no cut-off"),
    "full_mrr": ("FullMRR", "one over the exact place of the only target"),
    "full_ndcg": ("FullNDCG", "discounted gain of the only target at its exact place"),
    "full_auc": ("FullAUC", "share of the other ranked items that come after the only target"),
    "gini": ("Gini", "how unevenly the places are shared among the items"),
}


@hookimpl
def recengine_register_metrics(registry: Any) -> None:
    for name, (target, summary) in _STANDARD.items():
        registry.add(name, f"{_HOME}:{target}", summary=summary)
