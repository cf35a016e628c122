"""Settings of XSimGCL."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from recengine.config import knob
from recengine.contracts.model import ModelConfig


class XSimGCLConfig(ModelConfig):
    """Size, depth and contrast; the ranking loss has its own section."""

    factors: int = knob(64, "length of a vector", ge=1, low=16, high=512, log=True)
    layers: int = knob(3, "steps of propagation", ge=1, low=2, high=4)
    contrast_layer: int = knob(1, "the layer that the read-out is contrasted with, from 1", ge=1)
    init_std: float = knob(0.1, "spread of the initial values", gt=0)
    l2: float = knob(1e-4, "pull on the learned vectors of a batch", ge=0, low=1e-7, high=1e-2, log=True)
    norm_power: float = knob(
        0.0, "power of an item's length in the score, where the loss is one of cosines", ge=0, le=1
    )
    noise: float = knob(0.1, "length of the noise added to a node in every layer", ge=0, low=0.01, high=0.5)
    contrast: float = knob(0.2, "weight of the contrastive loss", ge=0, low=0.01, high=2.0, log=True)
    contrast_temperature: float = knob(0.2, "of the contrastive loss", ge=1e-6, low=0.05, high=0.5)

    @model_validator(mode="after")
    def _layer_exists(self) -> Self:
        if self.contrast_layer > self.layers:
            raise ValueError(f"contrast_layer {self.contrast_layer} is beyond the {self.layers} layers")
        return self
