"""A registry: names to objects that are imported only when they are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from recengine.config import did_you_mean
from recengine.errors import PluginError, UsageError

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


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


_LISTED_BY = {"model": "models", "loss": "losses", "metric": "metrics", "dataset": "datasets"}


class Registry:
    """Names of one kind ('model', 'loss', ...)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._plugin = ""
        self._entries: dict[str, Entry] = {}

    @contextmanager
    def registering(self, plugin: str) -> Iterator[Registry]:
        """Entries added inside belong to ``plugin``; when the block raises, none of them stays."""
        before, self._plugin = dict(self._entries), plugin
        try:
            yield self
        except BaseException:
            self._entries = before
            raise
        finally:
            self._plugin = ""

    def forget(self, plugin: str) -> None:
        """Take out everything that ``plugin`` registered."""
        self._entries = {name: entry for name, entry in self._entries.items() if entry.plugin != plugin}

    def add(self, name: str, target: Any, *, config: Any = None, summary: str = "", **extras: Any) -> None:
        """Register ``target`` under ``name``: an object, or 'package.module:Name', imported when needed.

        Raises PluginError when the name is taken, is no plain name, or the target is malformed.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise PluginError(
                f"a {self.kind} needs a plain name",
                found=repr(name),
                expected="lower-case letters, digits, '_', '-' and '.', a letter or digit first",
            )
        for part in (target, config):
            if isinstance(part, str) and not _TARGET.fullmatch(part):
                raise PluginError(
                    f"the {self.kind} '{name}' has a malformed target",
                    found=repr(part),
                    expected="'package.module:Name'",
                )
        if name in self._entries:
            raise PluginError(
                f"two plugins register the {self.kind} '{name}'",
                found=f"'{self._entries[name].plugin}' and '{self._plugin}'",
                fix="rename one of them",
            )
        self._entries[name] = Entry(self.kind, name, target, config, summary, self._plugin, extras)

    def get(self, name: str) -> Entry:
        """Raises UsageError with a did-you-mean when there is no such name."""
        if name not in self._entries:
            near = did_you_mean(name, list(self._entries))
            listed = _LISTED_BY.get(self.kind)
            listing = f"{listed} list" if listed else f"plugins list --kind {self.kind}"
            raise UsageError(
                f"there is no {self.kind} '{name}'",
                expected="one of " + ", ".join(sorted(self._entries)) if self._entries else None,
                fix=f"did you mean '{near}'?" if near else f"list them with: recengine {listing}",
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
