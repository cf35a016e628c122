"""Settings of Bayesian personalised ranking."""

from __future__ import annotations

from recengine.config import knob
from recengine.contracts.model import ModelConfig


class BPRConfig(ModelConfig):
    """Size, steps, regularisation."""

    factors: int = knob(64, "length of a vector", ge=1, low=16, high=512, log=True)
    epochs: int = knob(100, "passes over the pairs", ge=1, low=10, high=400, log=True)
    learning_rate: float = knob(0.05, "step size", gt=0.0, low=1e-3, high=0.5, log=True)
    reg_user: float = knob(0.01, "decay of user vectors", ge=0.0, low=1e-5, high=0.1, log=True)
    reg_item: float = knob(0.01, "decay of item vectors", ge=0.0, low=1e-5, high=0.1, log=True)
    reg_bias: float = knob(0.01, "decay of item biases", ge=0.0, low=1e-5, high=0.1, log=True)
    init_scale: float = knob(0.1, "standard deviation of the first vectors' length", gt=0.0)
    shards: int = knob(
        16, "pieces that may run at once; part of the result, unlike the number of threads", ge=1, le=256
    )
