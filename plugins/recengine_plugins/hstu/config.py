"""Settings of HSTU."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from recengine.config import knob
from recengine.contracts.model import ModelConfig


class HSTUConfig(ModelConfig):
    """Width, depth and regularisation; the loss has its own section."""

    hidden_dim: int = knob(64, "width of item vectors and hidden states", ge=1, choices=(32, 64, 128, 256))
    n_blocks: int = knob(2, "blocks", ge=1, low=1, high=8)
    n_heads: int = knob(1, "attention heads; must divide hidden_dim", ge=1, choices=(1, 2, 4, 8))
    max_length: int = knob(50, "most recent events that are seen", ge=2, choices=(20, 50, 100, 200))
    dropout: float = knob(0.2, "share of values dropped in training", ge=0, lt=1, low=0.0, high=0.5)
    times: bool = knob(True, "a bias by the time between two events, where the data has times")
    init_std: float = knob(0.02, "spread of the initial weights", gt=0)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_dim % self.n_heads:
            raise ValueError(f"n_heads {self.n_heads} does not divide hidden_dim {self.hidden_dim}")
        return self
