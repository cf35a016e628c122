"""Settings of the random order."""

from __future__ import annotations

from recengine.contracts.model import ModelConfig


class RandomConfig(ModelConfig):
    """Nothing to set: the run's seed decides."""
