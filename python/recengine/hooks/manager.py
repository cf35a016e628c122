"""Finds plugins, keeps a broken one from taking the engine down, and fills the registries."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pluggy

from recengine.config import did_you_mean
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


@dataclass(frozen=True)
class Failure:
    """A life-cycle hook that raised: the engine went on without its answer."""

    plugin: str
    hook: str
    reason: str


@dataclass
class Host:
    """The plugins of this process and what they registered."""

    manager: pluggy.PluginManager = field(default_factory=lambda: pluggy.PluginManager(specs.PROJECT))
    registries: dict[str, Registry] = field(default_factory=lambda: {kind: Registry(kind) for kind in KINDS})
    broken: list[Broken] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.manager.add_hookspecs(specs)
        if os.environ.get("RECENGINE_TRACE_PLUGINS") == "1":
            self.manager.trace.root.setwriter(lambda text: sys.stderr.write(text))
            self.manager.enable_tracing()

    def discover(self) -> None:
        """Load the entry points of the group 'recengine': all of them, or those that
        RECENGINE_LOAD_PLUGINS names (comma-separated; empty: none)."""
        points = {point.name: point for point in entry_points(group=specs.PROJECT)}
        allowed = allow_list()
        for name in sorted(points if allowed is None else allowed):
            if name in points:
                self._load(points[name])
            else:
                self._skip(name, "named in RECENGINE_LOAD_PLUGINS but not installed")

    def _load(self, point: EntryPoint) -> None:
        try:
            plugin = point.load()
        except Exception as error:  # a plugin's import may fail in any way
            self._skip(point.name, f"import failed: {type(error).__name__}: {error}")
            return
        self.add(plugin, point.name)

    def add_file(self, path: Path) -> None:
        """Load a one-file plugin (``--plugin my.py``); raises PluginError when it does not load."""
        if not path.is_file():
            raise UsageError("there is no such plugin file", where=str(path))
        spec = spec_from_file_location(f"recengine_plugin_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise PluginError("not a Python file", where=str(path))
        module = module_from_spec(spec)
        sys.modules[spec.name] = module  # so that 'module:Name' targets and dataclasses find it
        try:
            spec.loader.exec_module(module)
            self._register(module, path.stem)
        except Exception as error:
            sys.modules.pop(spec.name, None)
            raise PluginError(
                "the plugin file cannot be loaded",
                where=str(path),
                found=error.problem if isinstance(error, PluginError) else f"{type(error).__name__}: {error}",
                expected=error.expected if isinstance(error, PluginError) else None,
                fix=error.fix if isinstance(error, PluginError) else None,
            ) from error
        self.files.append(path)

    def add(self, plugin: Any, name: str) -> bool:
        """Register one plugin, all of it or nothing; False (and a PluginWarning) when it was skipped."""
        try:
            self._register(plugin, name)
        except Exception as error:  # a plugin's hooks may fail in any way
            self._skip(name, f"{type(error).__name__}: {error}")
            return False
        return True

    def _register(self, plugin: Any, name: str) -> None:
        if self.manager.get_plugin(name) is not None:
            raise PluginError(f"there is a plugin '{name}' already", fix="rename one of the two")
        if self.manager.get_name(plugin) is not None:
            raise PluginError(f"the same object is the plugin '{self.manager.get_name(plugin)}' already")
        try:
            self.manager.register(plugin, name=name)
            self._check_names(plugin)
            self._collect(plugin, name)
        except BaseException:
            if self.manager.get_plugin(name) is not None:
                self.manager.unregister(name=name)
            raise

    def _check_names(self, plugin: Any) -> None:
        """Every implementation must answer a known hook, unless it is marked ``optionalhook``."""
        known = sorted(name for name in vars(specs) if name.startswith("recengine_"))
        for caller in self.manager.get_hookcallers(plugin) or []:
            optional = all(
                implementation.optionalhook
                for implementation in caller.get_hookimpls()
                if implementation.plugin is plugin
            )
            if caller.has_spec() or optional:
                continue
            near = did_you_mean(caller.name, known)
            raise PluginError(
                f"there is no hook '{caller.name}'",
                expected="one of " + ", ".join(known),
                fix=f"did you mean '{near}'?" if near else "see docs/hooks",
            )

    def _collect(self, plugin: Any, name: str) -> None:
        others = [other for other in self.manager.get_plugins() if other is not plugin]
        with ExitStack() as registering:
            for kind, hook in KINDS.items():
                registry = registering.enter_context(self.registries[kind].registering(name))
                self.manager.subset_hook_caller(hook, others)(registry=registry)

    def _skip(self, name: str, reason: str) -> None:
        self.broken.append(Broken(name, reason))
        warnings.warn(f"plugin '{name}' was skipped: {reason}", PluginWarning, stacklevel=3)

    def remove(self, name: str) -> None:
        """Unregister a plugin and everything it registered. Raises UsageError when there is none."""
        if self.manager.get_plugin(name) is None:
            raise UsageError(f"there is no plugin '{name}'", expected="one of " + ", ".join(self.names()))
        self.manager.unregister(name=name)
        for registry in self.registries.values():
            registry.forget(name)

    def names(self) -> list[str]:
        """Names of the plugins that are live, sorted."""
        return sorted(name for name, plugin in self.manager.list_name_plugin() if plugin is not None)

    def hooks_of(self, name: str) -> list[str]:
        """The hooks that a plugin implements, sorted."""
        callers = self.manager.get_hookcallers(self.manager.get_plugin(name)) or []
        return sorted(caller.name for caller in callers)


def allow_list() -> list[str] | None:
    """The plugins that RECENGINE_LOAD_PLUGINS allows; None when it is not set."""
    named = os.environ.get("RECENGINE_LOAD_PLUGINS")
    return None if named is None else sorted({name.strip() for name in named.split(",")} - {""})


@cache
def host() -> Host:
    """The host of this process, with every installed plugin."""
    made = Host()
    made.discover()
    return made
