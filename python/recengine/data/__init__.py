"""Interactions, readers, splits, leakage audit, batching, sampling, simulators.

Names load on first use, so that importing one costs no table library and no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recengine.data.interactions import Histories, Interactions
from recengine.data.ordering import TieOrder, tie_hash
from recengine.data.split import EvalTask, Split
from recengine.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from recengine.data.batching import (
        Negatives,
        PairArrays,
        SequenceArrays,
        n_pair_batches,
        n_sequence_batches,
        pair_batches,
        sequence_batches,
    )
    from recengine.data.fetching import PUBLIC_SETS, PublicSet, fetch, is_fetched, load_fetched
    from recengine.data.filtering import at_least, first_meetings, k_core
    from recengine.data.findings import Finding
    from recengine.data.generator import GeneratorConfig, Truth, generate
    from recengine.data.groups import Groups, cold_items, cold_targets, cold_users, history_buckets
    from recengine.data.leakage import FeatureFit, View, audit, failures
    from recengine.data.masking import Masking, masked_batches
    from recengine.data.reading import ReadReport, read, read_table
    from recengine.data.reshuffling import reshuffle_ties
    from recengine.data.sampling import AliasTable, PopularitySampler, Sampler, SeenPairs, UniformSampler
    from recengine.data.splitting import SplitConfig, split_parts
    from recengine.data.tie_order import TieReport, tie_report

_HOME = {
    "AliasTable": "sampling",
    "FeatureFit": "leakage",
    "Finding": "findings",
    "GeneratorConfig": "generator",
    "Groups": "groups",
    "Masking": "masking",
    "Negatives": "batching",
    "PUBLIC_SETS": "fetching",
    "PairArrays": "batching",
    "PopularitySampler": "sampling",
    "PublicSet": "fetching",
    "ReadReport": "reading",
    "Sampler": "sampling",
    "SeenPairs": "sampling",
    "SequenceArrays": "batching",
    "SplitConfig": "splitting",
    "TieReport": "tie_order",
    "Truth": "generator",
    "UniformSampler": "sampling",
    "View": "leakage",
    "at_least": "filtering",
    "audit": "leakage",
    "cold_items": "groups",
    "cold_targets": "groups",
    "cold_users": "groups",
    "failures": "leakage",
    "fetch": "fetching",
    "first_meetings": "filtering",
    "generate": "generator",
    "history_buckets": "groups",
    "is_fetched": "fetching",
    "k_core": "filtering",
    "load_fetched": "fetching",
    "masked_batches": "masking",
    "n_pair_batches": "batching",
    "n_sequence_batches": "batching",
    "pair_batches": "batching",
    "read": "reading",
    "read_table": "reading",
    "reshuffle_ties": "reshuffling",
    "sequence_batches": "batching",
    "split_parts": "splitting",
    "tie_report": "tie_order",
}

__all__ = [
    "PUBLIC_SETS",
    "AliasTable",
    "EvalTask",
    "FeatureFit",
    "Finding",
    "GeneratorConfig",
    "Groups",
    "Histories",
    "Interactions",
    "Masking",
    "Negatives",
    "PairArrays",
    "PopularitySampler",
    "PublicSet",
    "ReadReport",
    "Sampler",
    "SeenPairs",
    "SequenceArrays",
    "Split",
    "SplitConfig",
    "TieOrder",
    "TieReport",
    "Truth",
    "UniformSampler",
    "View",
    "Vocabulary",
    "at_least",
    "audit",
    "cold_items",
    "cold_targets",
    "cold_users",
    "failures",
    "fetch",
    "first_meetings",
    "generate",
    "history_buckets",
    "is_fetched",
    "k_core",
    "load_fetched",
    "masked_batches",
    "n_pair_batches",
    "n_sequence_batches",
    "pair_batches",
    "read",
    "read_table",
    "reshuffle_ties",
    "sequence_batches",
    "split",
    "split_parts",
    "tie_hash",
    "tie_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recengine.data' has no attribute {name!r}")
    value = getattr(import_module(f"recengine.data.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def split(interactions: Interactions, config: SplitConfig | None = None) -> Split:
    """Divide interactions into training, validation and test: see ``recengine.data.splitting.split``."""
    from recengine.data.splitting import split as divide

    return divide(interactions, config)
