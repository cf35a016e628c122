"""Settings of SASRec."""

from __future__ import annotations

from typing import Literal

from recengine.config import knob
from recengine.nn.settings import EncoderConfig


class SASRecConfig(EncoderConfig):
    """Width, depth and regularisation; the loss has its own section."""

    n_heads: int = knob(1, "attention heads; must divide hidden_dim", ge=1, choices=(1, 2, 4))
    max_length: int = knob(50, "most recent events that are seen", ge=1, choices=(20, 50, 100, 200))
    inner_factor: int = knob(
        1, "inner width of the feed-forward layers over hidden_dim", ge=1, choices=(1, 2, 4)
    )
    activation: Literal["relu", "gelu", "silu"] = knob("relu", "of the feed-forward layers")
    positions: Literal["recent", "first"] = knob(
        "recent", "learned positions counted from the newest event or from the oldest"
    )
