"""The most popular items for everybody: the yardstick without personalisation."""

from __future__ import annotations

from typing import Any

from recengine.hooks import hookimpl


@hookimpl
def recengine_register_models(registry: Any) -> None:
    registry.add(
        "popularity",
        "recengine_plugins.popularity.model:Popularity",
        config="recengine_plugins.popularity.config:PopularityConfig",
        summary="items by how many users took them",
        deterministic=True,
        learns=False,
    )
