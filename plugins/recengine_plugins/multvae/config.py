"""Settings of MultVAE."""

from __future__ import annotations

from recengine.config import knob
from recengine.contracts.model import ModelConfig


class MultVAEConfig(ModelConfig):
    """Widths, noise and the weight of the prior."""

    hidden: int = knob(600, "width of the hidden layers", ge=1, low=100, high=1000)
    latent: int = knob(200, "width of the latent vector", ge=1, low=32, high=400)
    dropout: float = knob(
        0.5, "share of a history that is dropped in training", ge=0, lt=1, low=0.0, high=0.8
    )
    beta: float = knob(0.2, "weight of the divergence from the prior", ge=0, low=0.0, high=1.0)
    anneal: float = knob(0.2, "share of the training over which beta rises from zero", ge=0, le=1)
