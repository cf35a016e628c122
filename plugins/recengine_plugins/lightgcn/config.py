"""Settings of LightGCN."""

from __future__ import annotations

from recengine.config import knob
from recengine.contracts.model import ModelConfig


class LightGCNConfig(ModelConfig):
    """Size and depth; the loss has its own section."""

    factors: int = knob(64, "length of a vector", ge=1, low=16, high=512, log=True)
    layers: int = knob(2, "steps of propagation", ge=1, low=1, high=4)
    init_std: float = knob(0.1, "spread of the initial values", gt=0)
    l2: float = knob(1e-4, "pull on the learned vectors of a batch", ge=0, low=1e-7, high=1e-2, log=True)
    norm_power: float = knob(
        0.0, "power of an item's length in the score, where the loss is one of cosines", ge=0, le=1
    )
