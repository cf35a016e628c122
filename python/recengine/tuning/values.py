"""Numbers that objectives return: Python's, NumPy's and torch's alike."""

from __future__ import annotations

from collections.abc import Iterable
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
