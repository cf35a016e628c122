"""Matrix factorisation by Bayesian personalised ranking."""

from __future__ import annotations

from typing import Any

from recengine.hooks import hookimpl


@hookimpl
def recengine_register_models(registry: Any) -> None:
    registry.add(
        "bpr",
        "recengine_plugins.bpr.model:BPR",
        config="recengine_plugins.bpr.config:BPRConfig",
        summary="matrix factorisation by Bayesian personalised ranking (Rendle et al. 2009)",
    )
