"""Numbers that objectives return: Python's, NumPy's and torch's alike."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from recengine.errors import UsageError


def number(value: Any, where: str) -> float:
    """``value`` as a float: a number, or an array or tensor of one. Raises UsageError otherwise."""
    try:
        plain = value.item() if hasattr(value, "item") else value
    except (TypeError, ValueError, RuntimeError):  # more than one
        plain = None
    if not isinstance(plain, Real):
        raise UsageError(
            "this is no number", where=where, found=repr(value), expected="a number, larger is better"
        )
    return float(plain)


def numbers(value: Any, where: str) -> list[float]:
    """One number or several (one an objective) as floats. Raises UsageError otherwise."""
    several = isinstance(value, Iterable) and not isinstance(value, str) and getattr(value, "ndim", 1) > 0
    return [number(one, where) for one in value] if several else [number(value, where)]


def plain(value: Any) -> Any:
    """``value`` with NumPy's and torch's numbers and arrays as Python's own, inside mappings and sequences,
    too; anything else as it is."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(one) for one in value)
    if isinstance(value, (bool, int, float, str)) and type(value).__module__ == "builtins":
        return value
    return value.tolist() if hasattr(value, "tolist") else value


def kept(facts: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``facts`` as a study's file can keep them. Raises UsageError for what it cannot."""
    made: dict[str, Any] = plain(facts)
    for name, value in made.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise UsageError(
                "a study's file cannot keep this",
                where=f"{where}, '{name}'",
                found=f"{value!r}, a {type(value).__name__}",
                expected="numbers, texts, None, and lists and dictionaries of these",
            ) from None
    return made
