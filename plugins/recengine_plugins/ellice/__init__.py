"""ElliCE: recourse that survives a retrained model."""

from __future__ import annotations

from typing import Any

from recengine.hooks import hookimpl


@hookimpl
def recengine_register_recourse(registry: Any) -> None:
    registry.add(
        "ellice",
        "recengine_plugins.ellice.method:ElliCE",
        config="recengine_plugins.ellice.config:ElliCEConfig",
        summary="recourse that every near-optimal model accepts (ElliCE, arXiv 2602.07674)",
    )
