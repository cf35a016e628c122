"""Settings of Cotten4Rec."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from recengine.config import knob
from recengine.nn.settings import MaskedOrNextConfig


class Cotten4RecConfig(MaskedOrNextConfig):
    """Width, depth, regularisation, hidden events and the form of the attention; the loss has its own
    section."""

    scale: Literal["length", "key_prefix", "sequence"] = knob(
        "length",
        "what n counts in n^-sigma(m): events that the query sees, events up to the key (causal only), "
        "or events of the whole sequence (causal only)",
    )
    positions: Literal["recent", "first", "none"] = knob(
        "recent", "learned positions counted from the newest event, from the oldest, or none"
    )
    out_projection: bool = knob(True, "a linear layer behind the heads")
    tied: bool = knob(True, "one table for items as input and as output")
    item_bias: bool = knob(True, "a learned bias for each item")
    norm: Literal["layer", "std"] = knob("layer", "LayerNorm, or (x - mean) / (std + eps)")
    final_norm: bool = knob(True, "a norm behind the last block")
    even_start: float = knob(
        2.0,
        "first length of what all queries and keys have in common, over that of their own part: attention "
        "begins as an average; 0: with random signs",
        ge=0,
    )
    closing_dropout: bool = knob(False, "one more dropout at the end of each block")

    @model_validator(mode="after")
    def _causal_only(self) -> Self:
        causal = self.direction == "causal"
        if not causal and (self.objective == "next" or self.scale != "length"):
            raise ValueError(
                "objective 'next' and the scales 'key_prefix' and 'sequence' need direction 'causal'"
            )
        return self


# The released notebooks' form (arXiv 2602.06935), as far as the engine has it; see the model card.
AUTHORS: dict[str, Any] = {
    "direction": "causal",
    "scale": "sequence",
    "out_projection": False,
    "tied": False,
    "norm": "std",
    "final_norm": False,
    "closing_dropout": True,
    "even_start": 0.0,
    "activation": "gelu_tanh",
    "dropout": 0.1,
    "mask_share": 0.15,
    "last_share": 0.0,
}

# Takes events one at a time (recengine.serving.Sessions).
STREAMING: dict[str, Any] = {"direction": "causal", "objective": "next", "positions": "first"}
