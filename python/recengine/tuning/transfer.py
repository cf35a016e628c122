"""Trials of one study in the space of another: only where they measured a point of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recengine.tuning.space import Space


def translated(
    point: Mapping[str, Any],
    their_default: Mapping[str, Any],
    their_about: Mapping[str, str],
    space: Space,
    about: Mapping[str, str],
) -> dict[str, Any] | None:
    """The point of ``space`` that a trial of another study measured at ``point``; None where there is none.

    A setting that only the other study searches must have been at what this one fixes it to, or, where
    ``about`` does not say, at the other's default. One that only this study searches must have been fixed to
    the default here, or not be known to the other study at all.
    """
    for name, value in point.items():
        if name in space.names:
            continue
        same = _reads(about[name], value) if name in about else value == their_default.get(name)
        if not same:
            return None
    for parameter in space.parameters:
        fixed = their_about.get(parameter.name)
        if parameter.name not in point and fixed is not None and not _reads(fixed, parameter.default):
            return None
    here = {p.name: point.get(p.name, p.default) for p in space.parameters}
    if not all(p.contains(here[p.name]) for p in space.parameters):
        return None
    here = space.settle(here)
    return here if space.allows(here) else None


def _reads(text: str, value: Any) -> bool:
    """Whether ``text`` is how a study kept ``value`` (300 and 300.0 are one number)."""
    if text == str(value) or isinstance(value, bool) or not isinstance(value, (int, float)):
        return text == str(value)
    try:
        return float(text) == value
    except ValueError:
        return False
