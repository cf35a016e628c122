"""Settings that several sequence models share; a plugin's config derives from one of them."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from recengine.config import knob
from recengine.contracts.model import ModelConfig


class EncoderConfig(ModelConfig):
    """Width, depth and regularisation of a stack of blocks."""

    hidden_dim: int = knob(64, "width of item vectors and hidden states", ge=1, choices=(32, 64, 128, 256))
    n_blocks: int = knob(2, "blocks", ge=1, low=1, high=4)
    n_heads: int = knob(2, "attention heads; must divide hidden_dim", ge=1, choices=(1, 2, 4))
    max_length: int = knob(50, "most recent events that are seen", ge=2, choices=(20, 50, 100, 200))
    dropout: float = knob(0.2, "share of hidden values dropped in training", ge=0, lt=1, low=0.0, high=0.5)
    inner_factor: int = knob(
        4, "inner width of the feed-forward layers over hidden_dim", ge=1, choices=(1, 2, 4)
    )
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = knob("gelu", "of the feed-forward layers")
    # .1 is behind everywhere but at the end of long courses on small catalogues (bench sequential_tuning)
    init_std: float = knob(0.02, "spread of the initial weights", gt=0, low=0.01, high=0.2, log=True)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_dim % self.n_heads:
            raise ValueError(f"n_heads {self.n_heads} does not divide hidden_dim {self.hidden_dim}")
        return self


def _mask_share(**more: Any) -> Any:
    return knob(0.2, "share of events hidden in training", gt=0, le=1, low=0.1, high=0.6, **more)


def _last_share(**more: Any) -> Any:
    return knob(
        0.1,
        "share of training sequences in which the newest event alone is hidden",
        ge=0,
        le=1,
        low=0,
        high=1,
        **more,
    )


class MaskedConfig(EncoderConfig):
    """And which events are hidden in training (recengine.data.Masking)."""

    mask_share: float = _mask_share()
    last_share: float = _last_share()


class MaskedOrNextConfig(MaskedConfig):
    """And which sides of an event are seen, and whether any are hidden at all."""

    mask_share: float = _mask_share(when={"objective": ("masked",)})
    last_share: float = _last_share(when={"objective": ("masked",)})
    direction: Literal["bidirectional", "causal"] = knob(
        "bidirectional", "whether an event is seen with both of its sides or with its past alone"
    )
    objective: Literal["masked", "next"] = knob(
        "masked", "fill hidden events, or predict the next event at every event (causal only)"
    )
