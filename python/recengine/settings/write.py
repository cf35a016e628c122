"""Settings to TOML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

NULL = "null"  # TOML has no null; the bare word stands for None, on the command line and in files


def to_toml(settings: Mapping[str, Any]) -> str:
    """TOML text that ``recengine.config.layer`` reads back to equal settings; None becomes "null"."""
    import tomli_w

    return tomli_w.dumps(_plain(settings))


def _plain(value: Any) -> Any:
    if value is None:
        return NULL
    if isinstance(value, Mapping):
        return {str(name): _plain(below) for name, below in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(below) for below in value]
    return str(value) if isinstance(value, PurePath) else value
