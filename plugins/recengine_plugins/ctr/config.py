"""Settings of the click models."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from recengine.config import knob
from recengine.contracts.model import ModelConfig
from recengine.nn.clicks import ClickConfig

Widths = tuple[Annotated[int, Field(ge=1)], ...]


class LRConfig(ModelConfig):
    """Logistic regression."""

    embedding_l2: float = knob(0.0, "pull of the looked-up weights to zero", ge=0, low=0.0, high=1e-2)
    table_l2: float = knob(0.0, "pull of all weights to zero, at every step", ge=0, low=0.0, high=1e-1)


class FMConfig(ClickConfig):
    """Factorisation machine."""


class TowerConfig(ClickConfig):
    """A model with a tower."""

    hidden: Widths = knob((400, 400, 400), "widths of the tower's layers")
    dropout: float = knob(0.2, "share of hidden values dropped in training", ge=0, lt=1, low=0.0, high=0.5)
    batch_norm: bool = knob(False, "batch normalisation before each ReLU of the tower")


class DeepFMConfig(TowerConfig):
    """FM and a tower."""


class DCNv2Config(TowerConfig):
    """Cross layers and a tower."""

    cross_layers: int = knob(3, "cross layers", ge=1, low=1, high=5)
    structure: Literal["parallel", "stacked"] = knob(
        "parallel", "the tower beside the cross layers, or on top of them"
    )


class DLRMConfig(TowerConfig):
    """Bottom tower, pairwise products, top tower."""

    bottom: Widths = knob((64,), "widths of the tower of the numbers, before its last layer")


class AutoIntConfig(ClickConfig):
    """Attention between features."""

    layers: int = knob(3, "attention layers", ge=1, low=1, high=4)
    n_heads: int = knob(2, "attention heads; must divide attention_dim", ge=1, choices=(1, 2, 4))
    attention_dim: int = knob(64, "width of a feature inside", ge=1, choices=(32, 64, 128))

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.attention_dim % self.n_heads:
            raise ValueError(f"n_heads {self.n_heads} does not divide attention_dim {self.attention_dim}")
        return self


class WukongConfig(ClickConfig):
    """Stacked factorisation machines."""

    embedding_dim: int = knob(32, "length of a feature's vector", ge=1, choices=(16, 32, 64))
    layers: int = knob(3, "Wukong layers", ge=1, low=1, high=6)
    compressed: int = knob(8, "vectors out of the linear compression of a layer", ge=1, low=4, high=32)
    interacted: int = knob(8, "vectors out of the factorisation machine of a layer", ge=1, low=4, high=32)
    rank: int = knob(8, "columns that the pairwise products are compressed to", ge=1, low=4, high=32)
    hidden: Widths = knob((128,), "widths of the tower inside a factorisation machine")
    top: Widths = knob((128,), "widths of the last tower")
    dropout: float = knob(0.1, "share of hidden values dropped in the last tower", ge=0, lt=1)
    batch_norm: bool = knob(False, "batch normalisation before each ReLU of the last tower")
