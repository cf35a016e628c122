"""The plugin host: hook specifications, plugin manager, registries, life-cycle events."""

from recengine.hooks.events import ask, emit
from recengine.hooks.manager import KINDS, Broken, Failure, Host, host
from recengine.hooks.registry import Entry, Registry
from recengine.hooks.specs import hookimpl, hookspec

__all__ = [
    "KINDS",
    "Broken",
    "Entry",
    "Failure",
    "Host",
    "Registry",
    "ask",
    "emit",
    "hookimpl",
    "hookspec",
    "host",
]
