"""Settings of RankMixer."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from recengine.config import knob
from recengine.nn.clicks import ClickConfig


class RankMixerConfig(ClickConfig):
    """Tokens, width, depth."""

    tokens: int = knob(
        8, "tokens; as many heads mix them, so it must divide hidden_dim", ge=1, choices=(4, 8, 16)
    )
    hidden_dim: int = knob(64, "width of a token", ge=1, choices=(32, 64, 128, 256))
    n_blocks: int = knob(2, "blocks", ge=1, low=1, high=4)
    expansion: int = knob(2, "inner width of a feed-forward network over hidden_dim", ge=1, choices=(1, 2, 4))

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.hidden_dim % self.tokens:
            raise ValueError(f"tokens {self.tokens} does not divide hidden_dim {self.hidden_dim}")
        return self
