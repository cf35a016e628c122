"""Settings of LinRec."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from recengine.config import knob
from recengine.nn.settings import MaskedOrNextConfig


class LinRecConfig(MaskedOrNextConfig):
    """Width, depth, regularisation and hidden events; the loss has its own section."""

    positions: Literal["recent", "first", "none"] = knob(
        "recent", "learned positions counted from the newest event, from the oldest, or none"
    )
    item_bias: bool = knob(True, "a learned bias for each item")

    @model_validator(mode="after")
    def _causal_only(self) -> Self:
        if self.objective == "next" and self.direction != "causal":
            raise ValueError("objective 'next' needs direction 'causal'")
        return self
