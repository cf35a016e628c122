"""Settings of popularity."""

from __future__ import annotations

from typing import Literal

from recengine.config import knob
from recengine.contracts.model import ModelConfig


class PopularityConfig(ModelConfig):
    """What is counted."""

    count: Literal["users", "events"] = knob(
        "users", "users: each user counts once an item; events: repeats count", choices=("users", "events")
    )
