"""Tuners to compare with: random search, Sobol sequences, tree-structured Parzen estimators."""

from __future__ import annotations

from typing import Any

from recengine.hooks import hookimpl


@hookimpl
def recengine_register_tuners(registry: Any) -> None:
    config = "recengine_plugins.tuners.config:SearchConfig"
    registry.add(
        "random", "recengine_plugins.tuners.search:RandomSearch", config=config, summary="uniform draws"
    )
    registry.add(
        "sobol",
        "recengine_plugins.tuners.search:SobolSearch",
        config=config,
        summary="scrambled Sobol sequence",
    )
    registry.add(
        "tpe",
        "recengine_plugins.tuners.tpe:TPE",
        config="recengine_plugins.tuners.config:TPEConfig",
        summary="tree-structured Parzen estimators (Optuna)",
    )
