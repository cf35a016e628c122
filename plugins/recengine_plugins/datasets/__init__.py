"""Data sets by name: groceries out of a package, generated data with a known truth, fetched public sets."""

from __future__ import annotations

from typing import Any

from recengine.hooks import hookimpl

_PUBLIC = (
    ("ml-latest-small", "ML_LATEST_SMALL", "MovieLens, small changing edition"),
    ("ml-100k", "ML_100K", "MovieLens 100K"),
    ("ml-1m", "ML_1M", "MovieLens 1M"),
    ("ml-20m", "ML_20M", "MovieLens 20M"),
    ("ml-25m", "ML_25M", "MovieLens 25M"),
    ("amazon-beauty", "AMAZON_BEAUTY", "Amazon reviews 2014, Beauty"),
    ("amazon-sports", "AMAZON_SPORTS", "Amazon reviews 2014, Sports and Outdoors"),
    ("amazon-games", "AMAZON_GAMES", "Amazon reviews 2014, Video Games"),
    ("gowalla", "GOWALLA", "Gowalla check-ins as LightGCN divides them"),
)


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
    for name, target, summary in _PUBLIC:
        registry.add(
            name,
            f"recengine_plugins.datasets.public:{target}",
            summary=f"{summary} (after: recengine data fetch {name})",
        )
