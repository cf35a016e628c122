"""Settings of the model-free tuners."""

from __future__ import annotations

from recengine.config import Config, knob


class SearchConfig(Config):
    """Linear limits are met by drawing again."""

    most_draws: int = knob(10_000, "draws until the linear limits must have been met", ge=1)
