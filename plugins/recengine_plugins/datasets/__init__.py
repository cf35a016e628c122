"""Data sets by name: a year of groceries out of a package, and generated data with a known truth."""

from __future__ import annotations

from typing import Any

from recengine.hooks import hookimpl


@hookimpl
def recengine_register_datasets(registry: Any) -> None:
    registry.add(
        "groceries",
        "recengine_plugins.datasets.groceries:Groceries",
        summary="first purchases of 2,469 households over a year (simulated from real shopping)",
    )
    registry.add(
        "planted",
        "recengine_plugins.datasets.planted:Planted",
        summary="generated: power-law items, clusters, drift, ties, next-item structure, known ceiling",
    )
