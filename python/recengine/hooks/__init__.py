"""The plugin host: hook specifications, plugin manager, registries."""

from recengine.hooks.manager import Host, host
from recengine.hooks.registry import Entry, Registry
from recengine.hooks.specs import hookimpl, hookspec

__all__ = ["Entry", "Host", "Registry", "hookimpl", "hookspec", "host"]
