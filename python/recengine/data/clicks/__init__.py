"""Click logs: features of many kinds, read in batches, encoded once, divided before anything is learned.

Names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recengine.data.clicks.auditing import audit_clicks
    from recengine.data.clicks.coding import Ragged
    from recengine.data.clicks.dividing import ClickSplitConfig
    from recengine.data.clicks.encoder import FeatureEncoder, Seen
    from recengine.data.clicks.log import ClickLog
    from recengine.data.clicks.schema import ClickDataConfig, FeatureSpec
    from recengine.data.clicks.splitting import (
        ClickSplit,
        is_click_split,
        prepare,
        serving_rows,
    )
    from recengine.data.clicks.table import ClickArrays, ClickTable

_HOME = {
    "ClickArrays": "table",
    "ClickDataConfig": "schema",
    "ClickLog": "log",
    "ClickSplit": "splitting",
    "ClickSplitConfig": "dividing",
    "ClickTable": "table",
    "FeatureEncoder": "encoder",
    "FeatureSpec": "schema",
    "Ragged": "coding",
    "Seen": "encoder",
    "audit_clicks": "auditing",
    "is_click_split": "splitting",
    "prepare": "splitting",
    "serving_rows": "splitting",
}

__all__ = [
    "ClickArrays",
    "ClickDataConfig",
    "ClickLog",
    "ClickSplit",
    "ClickSplitConfig",
    "ClickTable",
    "FeatureEncoder",
    "FeatureSpec",
    "Ragged",
    "Seen",
    "audit_clicks",
    "is_click_split",
    "prepare",
    "serving_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recengine.data.clicks' has no attribute {name!r}")
    return getattr(import_module(f"recengine.data.clicks.{_HOME[name]}"), name)
