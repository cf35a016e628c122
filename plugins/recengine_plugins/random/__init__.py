"""A fixed random order of the catalogue for each user: the floor that every model must clear."""

from __future__ import annotations

from typing import Any

from recengine.hooks import hookimpl


@hookimpl
def recengine_register_models(registry: Any) -> None:
    registry.add(
        "random",
        "recengine_plugins.random.model:RandomOrder",
        config="recengine_plugins.random.config:RandomConfig",
        summary="random order, fixed by seed and user",
        learns=False,
    )
