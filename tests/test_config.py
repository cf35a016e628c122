"""The config class: validation with did-you-mean, facts for people, search space."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recengine.config import Config, SearchRange, did_you_mean, knob
from recengine.errors import ConfigError


class Inner(Config):
    rate: float = knob(0.1, "a rate", gt=0, le=1, low=0.01, high=1.0, log=True)
    kind: Literal["a", "b"] = knob("a", "a kind", choices=["a", "b"])


class Outer(Config):
    size: int = knob(64, "a size", ge=1)
    inner: Inner = Inner()
    note: str | None = knob(None, "a note")
    beta: float = knob(2.0, "a beta", low=1, high=4, when={"inner.kind": ["b"]})


class Shelf(Config):
    boxes: dict[str, Inner] = knob({}, "by name")
    rows: tuple[Inner, ...] = knob((), "in order")


@pytest.mark.parametrize("settings", [{"boxes": {"left": {"rato": 0.5}}}, {"rows": [{"rato": 0.5}]}])
def test_an_unknown_key_inside_a_collection_names_what_is_known(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as wrong:
        Shelf.parse(settings)
    assert wrong.value.expected == "one of rate, kind"


@given(st.integers(1, 10**6), st.floats(0.001, 1), st.sampled_from("ab"), st.none() | st.text(max_size=9))
def test_a_config_round_trips(size: int, rate: float, kind: str, note: str | None) -> None:
    config = Outer.parse({"size": size, "inner": {"rate": rate, "kind": kind}, "note": note})
    assert Outer.parse(config.model_dump()) == config
    assert Outer.model_validate_json(config.model_dump_json()) == config


def test_an_unknown_key_is_an_error_with_a_did_you_mean() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'inner.rato'") as wrong:
        Outer.parse({"inner": {"rato": 0.5}})
    assert wrong.value.fix == "did you mean 'inner.rate'?"
    assert wrong.value.expected == "one of rate, kind"
    assert wrong.value.exit_code == 2


def test_a_key_near_nothing_is_told_to_go() -> None:
    with pytest.raises(ConfigError) as wrong:
        Outer.parse({"zzz": 1})
    assert wrong.value.fix == "remove it"


def test_a_value_out_of_range_says_what_was_found_and_expected() -> None:
    with pytest.raises(ConfigError, match=r"setting 'size' is not valid \(and 1 more\)") as wrong:
        Outer.parse({"inner": {"rate": 2.0}, "size": "many"}, where="here")
    assert wrong.value.found == "'many'"
    assert wrong.value.expected == "a valid integer, unable to parse string as an integer"
    assert wrong.value.where == "here"


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "inf"])
def test_a_number_that_is_not_finite_is_refused_by_name(value: object) -> None:
    with pytest.raises(ConfigError, match=r"setting 'beta' is not valid"):
        Outer.parse({"beta": value})


def test_where_may_depend_on_the_key() -> None:
    with pytest.raises(ConfigError) as wrong:
        Outer.parse({"inner": {"rate": -1}}, where=lambda key: f"file:{len(key)}")
    assert wrong.value.where == "file:10"


def test_a_config_is_immutable_and_its_defaults_are_checked() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().size = 3  # type: ignore[misc]

    class Bad(Config):
        size: int = knob(0, "a size", ge=1)

    with pytest.raises(ConfigError):
        Bad.parse({})


def test_facts_open_nested_configs() -> None:
    facts = {fact.key: fact for fact in Outer.facts()}
    assert list(facts) == ["size", "inner.rate", "inner.kind", "note", "beta"]
    assert facts["inner.rate"].limits == "> 0, <= 1"
    assert facts["inner.rate"].search == SearchRange(0.01, 1.0, True)
    assert (facts["inner.kind"].type, facts["note"].type) == ("'a' | 'b'", "str | None")
    assert (facts["size"].default, facts["size"].description, facts["size"].search) == (64, "a size", None)


def test_the_search_space_is_what_the_knobs_say() -> None:
    assert Outer.search_space() == {"beta": SearchRange(1, 4, when=(("inner.kind", ("b",)),))}
    assert Inner.search_space()["kind"].choices == ("a", "b")


def test_did_you_mean_knows_when_nothing_is_near() -> None:
    assert did_you_mean("learnig_rate", ["learning_rate", "epochs"]) == "learning_rate"
    assert did_you_mean("xyz", ["learning_rate"]) is None
    assert did_you_mean("x", []) is None
