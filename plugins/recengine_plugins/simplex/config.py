"""Settings of SimpleX."""

from __future__ import annotations

from recengine.config import knob
from recengine.contracts.model import ModelConfig


class SimpleXConfig(ModelConfig):
    """Size and fusion; the loss has its own section."""

    factors: int = knob(64, "length of a vector", ge=1, low=16, high=512, log=True)
    init_std: float = knob(0.1, "spread of the initial values", gt=0)
    l2: float = knob(0.0, "pull on the vectors of a batch", ge=0, low=1e-7, high=1e-2, log=True)
    own: float = knob(
        0.5, "share of the user's own vector against the history's", ge=0, le=1, low=0.0, high=1.0
    )
    longest: int = knob(100, "items of a history that are averaged, the most recent", ge=1)
