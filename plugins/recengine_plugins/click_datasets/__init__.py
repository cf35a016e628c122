"""Click logs by name. They are read from a folder of real data and are never fetched."""

from __future__ import annotations

from typing import Any

from recengine.hooks import hookimpl

_SETS = (
    ("frappe", "frappe:Frappe", "use of apps in context, two sampled negatives a row, 7:2:1"),
    (
        "ml-1m-clicks",
        "movielens:MovieLensClicks",
        "ml-1m with user and film features, rating 4 or more as the click",
    ),
    ("open-bandit-random", "bandit:RANDOM", "fashion impressions shown at random, with propensities"),
    ("open-bandit-bts", "bandit:BTS", "fashion impressions shown by Thompson sampling, with propensities"),
)


@hookimpl
def recengine_register_datasets(registry: Any) -> None:
    for name, target, summary in _SETS:
        registry.add(name, f"recengine_plugins.click_datasets.{target}", summary=summary, task="clicks")
