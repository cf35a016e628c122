"""Dotted keys and back, differences, JSON Schema."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from recengine.config import Config, knob
from recengine.settings import Difference, diff, flatten, json_schema, unflatten

NAMES = st.text("abc_x1", min_size=1, max_size=4)
LEAVES = (
    st.integers() | st.booleans() | st.text(max_size=5) | st.floats(allow_nan=False) | st.lists(st.integers())
)
TREES = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=4),
    lambda below: st.dictionaries(NAMES, LEAVES | below, max_size=4),
    max_leaves=12,
)


@given(TREES)
def test_flatten_and_back(tree: dict[str, Any]) -> None:
    assert unflatten(flatten(tree)) == tree


@given(TREES)
def test_nothing_differs_from_itself(tree: dict[str, Any]) -> None:
    assert diff(tree, tree) == []


@given(TREES, TREES)
def test_a_difference_is_seen_from_both_sides(left: dict[str, Any], right: dict[str, Any]) -> None:
    there, back = diff(left, right), diff(right, left)
    assert [(one.key, one.left, one.right) for one in there] == [
        (one.key, one.right, one.left) for one in back
    ]
    assert bool(there) == (flatten(left) != flatten(right))


def test_a_missing_side_is_told_from_none() -> None:
    assert diff({"a": None}, {"b": {"c": 1}}) == [
        Difference("a", None, None, (True, False)),
        Difference("b.c", None, 1, (False, True)),
    ]


def test_the_schema_has_ranges_descriptions_and_search() -> None:
    class Small(Config):
        rate: float = knob(0.1, "a rate", gt=0, low=0.01, high=1.0, log=True)
        size: int = knob(1, "a size", choices=[1, 2], when={"rate": [0.1]})
        note: str = knob("", "a note")

    schema = json_schema(Small)
    rate = schema["properties"]["rate"]
    assert (rate["exclusiveMinimum"], rate["default"], rate["description"]) == (0, 0.1, "a rate")
    assert rate["x-search"] == {"low": 0.01, "high": 1.0, "log": True}
    assert schema["properties"]["size"]["x-search"] == {"choices": [1, 2], "when": {"rate": [0.1]}}
    assert "x-search" not in schema["properties"]["note"]
    assert schema["additionalProperties"] is False
    json.dumps(schema)
