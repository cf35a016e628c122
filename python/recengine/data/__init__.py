"""Interactions, readers, splits, leakage audit, batching, sampling, simulators."""

from recengine.data.interactions import Interactions, TieOrder, Vocabulary, tie_hash
from recengine.data.split import EvalTask, Split

__all__ = ["EvalTask", "Interactions", "Split", "TieOrder", "Vocabulary", "tie_hash"]
