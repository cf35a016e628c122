"""Finds plugins, keeps a broken one from taking the engine down, and fills the registries."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pluggy

from recengine.errors import PluginError, PluginWarning, UsageError
from recengine.hooks import specs
from recengine.hooks.registry import Registry

KINDS = {
    "model": "recengine_register_models",
    "loss": "recengine_register_losses",
    "metric": "recengine_register_metrics",
    "dataset": "recengine_register_datasets",
    "reader": "recengine_register_readers",
    "sampler": "recengine_register_samplers",
    "tuner": "recengine_register_tuners",
    "recourse": "recengine_register_recourse",
    "auditor": "recengine_register_auditors",
    "command": "recengine_register_commands",
}


@dataclass(frozen=True)
class Broken:
    """A plugin that was skipped, and why."""

    name: str
    reason: str


@dataclass
class Host:
    """The plugins of this process and what they registered."""

    manager: pluggy.PluginManager = field(default_factory=lambda: pluggy.PluginManager(specs.PROJECT))
    registries: dict[str, Registry] = field(default_factory=lambda: {kind: Registry(kind) for kind in KINDS})
    broken: list[Broken] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.manager.add_hookspecs(specs)
        if os.environ.get("RECENGINE_TRACE_PLUGINS") == "1":
            self.manager.trace.root.setwriter(lambda text: sys.stderr.write(text))
            self.manager.enable_tracing()

    def discover(self) -> None:
        """Load every entry point of the group 'recengine'."""
        for point in sorted(entry_points(group=specs.PROJECT), key=lambda point: point.name):
            try:
                plugin = point.load()
            except Exception as error:  # a plugin's import may fail in any way
                self._skip(point.name, f"import failed: {type(error).__name__}: {error}")
                continue
            self.add(plugin, point.name)

    def add_file(self, path: Path) -> None:
        """Load a one-file plugin (``--plugin my.py``); raises PluginError when it does not load."""
        if not path.is_file():
            raise UsageError("there is no such plugin file", where=str(path))
        spec = spec_from_file_location(f"recengine_plugin_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise PluginError("not a Python file", where=str(path))
        module = module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise PluginError(
                "the plugin file cannot be loaded", where=str(path), found=f"{type(error).__name__}: {error}"
            ) from error
        if not self.add(module, path.stem):
            raise PluginError(
                "the plugin file breaks its contract", where=str(path), found=self.broken[-1].reason
            )

    def add(self, plugin: Any, name: str) -> bool:
        """Register one plugin, all of it or nothing; False (and a PluginWarning) when it was skipped."""
        before = {kind: dict(registry._entries) for kind, registry in self.registries.items()}
        try:
            self.manager.register(plugin, name=name)
            self.manager.check_pending()
            self._collect(plugin, name)
        except Exception as error:
            if self.manager.get_plugin(name) is not None:
                self.manager.unregister(name=name)
            for kind, entries in before.items():
                self.registries[kind]._entries = entries
            self._skip(name, f"{type(error).__name__}: {error}")
            return False
        return True

    def _collect(self, plugin: Any, name: str) -> None:
        for kind, hook in KINDS.items():
            registry = self.registries[kind]
            caller = getattr(self.manager.hook, hook)
            others = [other for other in self.manager.get_plugins() if other is not plugin]
            registry.plugin = name
            try:
                self.manager.subset_hook_caller(caller.name, others)(registry=registry)
            finally:
                registry.plugin = ""

    def _skip(self, name: str, reason: str) -> None:
        self.broken.append(Broken(name, reason))
        warnings.warn(f"plugin '{name}' was skipped: {reason}", PluginWarning, stacklevel=3)


@cache
def host() -> Host:
    """The host of this process, with every installed plugin."""
    made = Host()
    made.discover()
    return made
