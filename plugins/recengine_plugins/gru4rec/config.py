"""Settings of GRU4Rec."""

from __future__ import annotations

from recengine.config import knob
from recengine.contracts.model import ModelConfig


class GRU4RecConfig(ModelConfig):
    """Width, depth and regularisation; the loss has its own section."""

    hidden_dim: int = knob(64, "width of item vectors", ge=1, choices=(32, 64, 128, 256))
    state_dim: int = knob(128, "width of the recurrent state", ge=1, choices=(64, 128, 256))
    n_layers: int = knob(1, "recurrent layers", ge=1, low=1, high=3)
    max_length: int = knob(50, "most recent events that are seen", ge=2, choices=(20, 50, 100, 200))
    dropout: float = knob(0.2, "share of values dropped in training", ge=0, lt=1, low=0.0, high=0.5)
    item_bias: bool = knob(True, "a learned bias for each item")
    init_std: float = knob(0.02, "spread of the initial item vectors and of the output layer", gt=0)
