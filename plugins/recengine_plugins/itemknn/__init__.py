"""Item-based nearest neighbours."""

from __future__ import annotations

from typing import Any

from recengine.hooks import hookimpl


@hookimpl
def recengine_register_models(registry: Any) -> None:
    registry.add(
        "itemknn",
        "recengine_plugins.itemknn.model:ItemKNN",
        config="recengine_plugins.itemknn.config:ItemKNNConfig",
        summary="cosine neighbours of the items of the history",
        deterministic=True,
    )
