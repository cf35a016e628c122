"""Calling life-cycle hooks so that a plugin that raises is named and reported, and nothing stops."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from recengine.errors import PluginWarning
from recengine.hooks.manager import Failure, Host


def emit(host: Host, hook: str, **event: Any) -> list[Any]:
    """Tell every plugin that implements ``hook``; the answers that are not None, newest plugin first.

    A plugin that raises is put down in ``host.failures`` and warned about once a hook
    (PluginWarning); the others are still told. KeyboardInterrupt and SystemExit pass.
    Raises AttributeError when there is no such hook: that is the caller's mistake.
    """
    return [answer for answer in _answers(host, hook, event) if answer is not None]


def ask(host: Host, hook: str, **question: Any) -> Any:
    """The first answer to a ``firstresult`` hook that is not None, or None; guarded like ``emit``."""
    return next((answer for answer in _answers(host, hook, question) if answer is not None), None)


def _answers(host: Host, hook: str, event: dict[str, Any]) -> Iterator[Any]:
    implementations = getattr(host.manager.hook, hook).get_hookimpls()
    plugins = {plugin.plugin_name: plugin.plugin for plugin in reversed(implementations)}
    for name, plugin in plugins.items():
        others = [other for other in host.manager.get_plugins() if other is not plugin]
        try:
            answer = host.manager.subset_hook_caller(hook, others)(**event)
        except Exception as error:  # a plugin's hook may fail in any way
            _report(host, Failure(name, hook, f"{type(error).__name__}: {error}"))
            continue
        yield from answer if isinstance(answer, list) else [answer]


def _report(host: Host, failure: Failure) -> None:
    known = any((old.plugin, old.hook) == (failure.plugin, failure.hook) for old in host.failures)
    host.failures.append(failure)
    if not known:
        warnings.warn(
            f"plugin '{failure.plugin}' raised in {failure.hook} and was left out: {failure.reason}",
            PluginWarning,
            stacklevel=4,
        )
