"""Evaluation: protocol, ranking and click metrics, per-user results, statistics.

The names below load on first use; ``recengine.evaluation.statistics`` is a room of its own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recengine.evaluation.evaluator import evaluate, protocol_of
    from recengine.evaluation.intervals import bootstrap_interval, t_interval
    from recengine.evaluation.metrics import built_in_metrics, resolve_metrics
    from recengine.evaluation.popularity import popularity_deciles
    from recengine.evaluation.protocol import Protocol
    from recengine.evaluation.result import Estimate, Evaluation
    from recengine.evaluation.slices import by_history_length, by_target_popularity

_HOME = {
    "evaluate": "evaluator",
    "protocol_of": "evaluator",
    "bootstrap_interval": "intervals",
    "t_interval": "intervals",
    "built_in_metrics": "metrics",
    "resolve_metrics": "metrics",
    "Protocol": "protocol",
    "Estimate": "result",
    "Evaluation": "result",
    "by_history_length": "slices",
    "by_target_popularity": "slices",
    "popularity_deciles": "popularity",
}

__all__ = [
    "Estimate",
    "Evaluation",
    "Protocol",
    "bootstrap_interval",
    "built_in_metrics",
    "by_history_length",
    "by_target_popularity",
    "evaluate",
    "popularity_deciles",
    "protocol_of",
    "resolve_metrics",
    "t_interval",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recengine.evaluation' has no attribute {name!r}")
    return getattr(import_module(f"recengine.evaluation.{_HOME[name]}"), name)
