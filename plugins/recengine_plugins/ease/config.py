"""Settings of EASE."""

from __future__ import annotations

from typing import Literal

from recengine.config import knob
from recengine.contracts.model import ModelConfig


class EASEConfig(ModelConfig):
    """One number decides; the others bound cost."""

    regularization: float = knob(
        300.0, "L2 penalty on the weights (lambda)", gt=0.0, low=10.0, high=1e4, log=True
    )
    nonnegative: bool = knob(
        False, "drop negative weights after the solution, as cornac does by default", choices=(False, True)
    )
    precision: Literal["float64", "float32"] = knob(
        "float64", "of the inversion; float32 takes half the memory and time"
    )
    memory_limit_gib: float = knob(8.0, "refuse to fit when the matrices would need more than this", gt=0.0)
