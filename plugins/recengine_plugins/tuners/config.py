"""Settings of the model-free tuners."""

from __future__ import annotations

from recengine.config import Config, knob


class SearchConfig(Config):
    """Linear limits are met by drawing again, then by a walk within them."""

    most_draws: int = knob(10_000, "draws until points are taken from a walk within the linear limits", ge=1)


class TPEConfig(Config):
    """How many trials come before the estimators, and how much each proposal looks at."""

    startup: int = knob(10, "random trials before the estimators are used", ge=0)
    candidates: int = knob(24, "draws of which the most promising is proposed", ge=1)
    most_draws: int = knob(
        1_000, "proposals until points are taken from a walk within the linear limits", ge=1
    )
