"""Settings of SLIM."""

from __future__ import annotations

from recengine.config import knob
from recengine.contracts.model import ModelConfig


class SLIMConfig(ModelConfig):
    """Regularisation and effort."""

    l1: float = knob(1.0, "pull towards zero weights", ge=0, low=0.01, high=100.0, log=True)
    l2: float = knob(10.0, "pull towards small weights", ge=0, low=0.1, high=1000.0, log=True)
    neighbours: int = knob(
        200, "candidate items of a column, the most often met with it", ge=1, low=50, high=1000
    )
    sweeps: int = knob(30, "largest number of passes over a column's weights", ge=1)
    tolerance: float = knob(1e-4, "largest change of a weight at which a column is done", gt=0)
    nonnegative: bool = knob(True, "weights at or above zero")
