"""Settings as trees: dotted keys and back, differences, JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from recengine.config import search_of


def leaves(tree: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path (names from the top) and the value of everything that is no table, and of empty tables."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from (((name, *path), below) for path, below in leaves(value))
        else:
            yield (name,), value


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to values; an empty table stays as itself, so that ``unflatten`` gives the tree back."""
    return {".".join(path): value for path, value in leaves(tree)}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of ``flatten`` for trees whose names hold no dots."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        put(tree, key.split("."), value)
    return tree


def put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set the value at ``path``, making tables (and replacing plain values) on the way."""
    for name in path[:-1]:
        below = tree.get(name)
        if not isinstance(below, dict):
            below = tree[name] = {}
        tree = below
    tree[path[-1]] = value


@dataclass(frozen=True)
class Difference:
    """One setting in which two configs differ; a missing side is None and not in ``present``."""

    key: str
    left: Any
    right: Any
    present: tuple[bool, bool]


def diff(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Difference]:
    """The settings that differ, sorted by key. ``diff(a, a)`` is empty."""
    one, two = flatten(left), flatten(right)
    return [
        Difference(key, one.get(key), two.get(key), (key in one, key in two))
        for key in sorted(one.keys() | two.keys())
        if (key in one) != (key in two) or one.get(key) != two.get(key)
    ]


def json_schema(cls: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema (2020-12) of a config; what a tuner may search stands under ``x-search``."""
    schema = cls.model_json_schema()
    schema.setdefault("$schema", "https://json-schema.org/draft/2020-12/schema")
    for name, field in cls.model_fields.items():
        search = search_of(field)
        if search is not None:
            entry: dict[str, Any] = {"low": search.low, "high": search.high, "log": search.log}
            if search.choices is not None:
                entry = {"choices": list(search.choices)}
            if search.when:
                entry["when"] = {key: list(values) for key, values in search.when}
            schema["properties"][name]["x-search"] = entry
    return schema
