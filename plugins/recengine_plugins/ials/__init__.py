"""Matrix factorisation by implicit alternating least squares."""

from __future__ import annotations

from typing import Any

from recengine.hooks import hookimpl


@hookimpl
def recengine_register_models(registry: Any) -> None:
    registry.add(
        "ials",
        "recengine_plugins.ials.model:ImplicitALS",
        config="recengine_plugins.ials.config:ImplicitALSConfig",
        summary="implicit alternating least squares (Hu, Koren, Volinsky 2008)",
    )
