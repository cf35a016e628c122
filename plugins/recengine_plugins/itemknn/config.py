"""Settings of item-based nearest neighbours."""

from __future__ import annotations

from typing import Literal

from recengine.config import knob
from recengine.contracts.model import ModelConfig


class ItemKNNConfig(ModelConfig):
    """How alike two items are, and how many neighbours an item keeps."""

    neighbors: int = knob(100, "neighbours kept an item", ge=1, low=10, high=1000, log=True)
    similarity: Literal["cosine", "jaccard"] = knob(
        "cosine", "of the sets of users of two items", choices=("cosine", "jaccard")
    )
    shrinkage: float = knob(
        10.0, "added to the denominator: distrusts items with few users", ge=0.0, low=0.0, high=500.0
    )
