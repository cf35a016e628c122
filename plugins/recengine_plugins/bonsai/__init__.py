"""BONSAI: Bayesian optimisation that starts from a default and changes only what matters."""

from __future__ import annotations

from typing import Any

from recengine.hooks import hookimpl


@hookimpl
def recengine_register_tuners(registry: Any) -> None:
    registry.add(
        "bonsai",
        "recengine_plugins.bonsai.policy:Bonsai",
        config="recengine_plugins.bonsai.config:BonsaiConfig",
        summary="Bayesian optimisation, pruned toward the default (BONSAI, arXiv 2602.07144)",
    )
    registry.add(
        "bo",
        "recengine_plugins.bonsai.policy:plain_bo",
        config="recengine_plugins.bonsai.config:BonsaiConfig",
        summary="the same Bayesian optimisation without pruning",
    )
