"""A registry: names to objects that are imported only when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from recengine.config import did_you_mean
from recengine.errors import PluginError, UsageError


@dataclass(frozen=True)
class Entry:
    """One registered thing. ``target`` and ``config`` are objects or 'package.module:Name'."""

    kind: str
    name: str
    target: Any
    config: Any = None
    summary: str = ""
    plugin: str = ""
    extras: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Any:
        return _resolve(self.target, self)

    def load_config(self) -> Any:
        return None if self.config is None else _resolve(self.config, self)


class Registry:
    """Names of one kind ('model', 'loss', ...)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.plugin = ""  # who is registering just now; set by the plugin manager
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, target: Any, *, config: Any = None, summary: str = "", **extras: Any) -> None:
        """Register ``target`` under ``name``. Raises PluginError when the name is taken."""
        if name in self._entries:
            raise PluginError(
                f"two plugins register the {self.kind} '{name}'",
                found=f"'{self._entries[name].plugin}' and '{self.plugin}'",
                fix="rename one of them",
            )
        self._entries[name] = Entry(self.kind, name, target, config, summary, self.plugin, extras)

    def get(self, name: str) -> Entry:
        """Raises UsageError with a did-you-mean when there is no such name."""
        if name not in self._entries:
            near = did_you_mean(name, list(self._entries))
            raise UsageError(
                f"there is no {self.kind} '{name}'",
                expected="one of " + ", ".join(sorted(self._entries)),
                fix=f"did you mean '{near}'?" if near else f"list them with: recengine {self.kind}s list",
            )
        return self._entries[name]

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)


def _resolve(target: Any, entry: Entry) -> Any:
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    try:
        return getattr(import_module(module), name)
    except Exception as broken:  # a plugin's import may fail in any way; name it
        raise PluginError(
            f"the {entry.kind} '{entry.name}' of plugin '{entry.plugin}' cannot be loaded",
            where=target,
            found=f"{type(broken).__name__}: {broken}",
            fix=f"check it with: recengine plugins check {entry.plugin}",
        ) from broken
