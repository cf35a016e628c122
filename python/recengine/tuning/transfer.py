"""Two studies' spaces: trials of one in the other, where they measured a point of it, and what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def first_difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[str, str]:
    """Where two descriptions of spaces (``Space.described``) first differ: what is there, and what here.

    Descriptions of earlier versions know less; what one of them does not tell is no difference.
    """
    for name in [*ours, *theirs]:
        if name not in theirs:
            return f"no parameter '{name}'", f"'{name}', {_worded(ours[name])}"
        if name not in ours:
            return f"'{name}', {_worded(theirs[name])}", f"no parameter '{name}'"
        for fact in ("kind", "low", "high", "log", "choices", "off", "limits"):
            there, here = theirs[name].get(fact), ours[name].get(fact)
            if fact in theirs[name] and there != here:
                if fact == "limits":
                    return _limits(name, there), _limits(name, here)
                return f"'{name}', {_worded(theirs[name])}", f"'{name}', {_worded(ours[name])}"
    return "another scale, other choices or limits, or another order", "those of this space: " + ", ".join(
        ours
    )


def _limits(name: str, limits: Sequence[str]) -> str:
    return f"'{name}' within " + " and ".join(limits) if limits else f"'{name}' in no limit"


def _worded(facts: Mapping[str, Any]) -> str:
    if facts["kind"] == "choice":
        return "a choice" + (f" of {facts['choices']}" if "choices" in facts else "")
    scale = ", logarithmic" if facts.get("log") else ""
    return f"{facts['kind']} of {facts['low']} to {facts['high']}{scale}" + (
        " or 0" if facts.get("off") else ""
    )


def _reads(text: str, value: Any) -> bool:
    """Whether ``text`` is how a study kept ``value`` (300 and 300.0 are one number)."""
    if text == str(value) or isinstance(value, bool) or not isinstance(value, (int, float)):
        return text == str(value)
    try:
        return float(text) == value
    except ValueError:
        return False
