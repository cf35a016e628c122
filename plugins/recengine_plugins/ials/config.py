"""Settings of implicit alternating least squares."""

from __future__ import annotations

from typing import Literal

from recengine.config import knob
from recengine.contracts.model import ModelConfig


class ImplicitALSConfig(ModelConfig):
    """Size, confidence, regularisation, solver."""

    factors: int = knob(64, "length of a vector", ge=1, low=16, high=512, log=True)
    iterations: int = knob(15, "sweeps over users and items", ge=1, low=5, high=30)
    alpha: float = knob(
        10.0,
        "confidence of an observed pair above that of an unobserved one",
        gt=0.0,
        low=0.5,
        high=100.0,
        log=True,
    )
    regularization: float = knob(0.1, "L2 penalty (lambda)", gt=0.0, low=1e-3, high=300.0, log=True)
    frequency_power: float = knob(
        0.0,
        "the penalty of a row grows with its number of entries to this power",
        ge=0.0,
        le=1.5,
        low=0.0,
        high=1.0,
    )
    counts: Literal["binary", "count", "log"] = knob(
        "binary", "what a repeated pair weighs: once, as often as it occurred, 1 + log of it"
    )
    steps: int = knob(3, "conjugate-gradient steps a row and sweep; 0: exact by Cholesky", ge=0)
    answer_steps: int = knob(
        3,
        "conjugate-gradient steps, from zero, that make a user's vector from the history; few of them "
        "regularise, 0 is exact",
        ge=0,
        choices=(0, 2, 3, 5),
    )
    init_scale: float = knob(0.1, "standard deviation of the first item vectors' length", gt=0.0)
