"""EASE: a linear item-item model in closed form."""

from __future__ import annotations

from typing import Any

from recengine.hooks import hookimpl


@hookimpl
def recengine_register_models(registry: Any) -> None:
    registry.add(
        "ease",
        "recengine_plugins.ease.model:EASE",
        config="recengine_plugins.ease.config:EASEConfig",
        summary="linear item-item model in closed form (Steck 2019)",
        deterministic=True,
    )
