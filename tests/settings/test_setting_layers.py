"""Defaults < file < command line, and every error says where."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from recengine.config import Config, knob
from recengine.errors import ConfigError
from recengine.settings import layer, layer_over, parse_set, to_toml


class Model(Config):
    hidden_dim: int = knob(64, "width", ge=1)
    dropout: float = knob(0.1, "dropout", ge=0, lt=1)
    loss: str | None = knob("softmax", "loss")


class Settings(Config):
    model: Model = Model()
    seed: int = knob(0, "seed")


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("a=1", "a", 1),
        ("a.b=2.5", "a.b", 2.5),
        ("a.b = true", "a.b", True),
        ("a.b-c=softmax", "a.b-c", "softmax"),
        ('a="1"', "a", "1"),
        ("a=[1, 2]", "a", [1, 2]),
        ("a={b = 1}", "a", {"b": 1}),
        ("a=null", "a", None),
        ("a=", "a", ""),
        ("a=b=c", "a", "b=c"),
        ("a=1979-05-27", "a", date(1979, 5, 27)),
        ("a=~/data/x.csv", "a", "~/data/x.csv"),
        ("a=1\nb=2", "a", "1\nb=2"),
    ],
)
def test_a_value_is_toml_or_a_string_as_it_stands(text: str, key: str, value: object) -> None:
    assert parse_set(text) == (key, value)


@pytest.mark.parametrize("text", ["a", "=1", "a b=1", ".a=1", "a..b=1", ""])
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"written a.b=value"):
        parse_set(text)


@given(st.text(max_size=20))
@example("\x00")
def test_any_value_is_read_without_a_crash(value: str) -> None:
    key, _ = parse_set(f"a.b={value}")
    assert key == "a.b"


@pytest.mark.parametrize(
    ("name", "text"),
    [("s.toml", "seed = 3\n[model]\nhidden_dim = 32\n"), ("s.yaml", "seed: 3\nmodel:\n  hidden_dim: 32\n")],
)
def test_the_layers_lie_over_one_another(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    layers = layer(Settings().model_dump(), file, ["model.hidden_dim=16", "model.loss=null"])
    assert layers.parse(Settings) == Settings(seed=3, model=Model(hidden_dim=16, loss=None))
    assert layers.where("seed") == f"{file}:1"
    assert layers.where("model.hidden_dim") == "--set model.hidden_dim=16"
    assert layers.where("model.dropout") == "defaults"


def test_the_defaults_are_left_as_they_were() -> None:
    defaults = {"model": {"hidden_dim": 64}}
    layer(defaults, None, ["model.hidden_dim=1", "model={dropout = 0.5}"])
    assert defaults == {"model": {"hidden_dim": 64}}


def test_an_inline_table_merges_and_an_empty_one_changes_nothing() -> None:
    values = layer({"model": {"a": 1, "b": 2}}, None, ["model={b = 3}", "model={}"]).values
    assert values == {"model": {"a": 1, "b": 3}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "s.toml",
            '[data.features.user]\n[data.features."user.id"]\n[data.features.item]\nmin_count = 2\n[empty]\n',
        ),
        ("s.yaml", "data:\n  features: {user: {}, user.id: {}, item: {min_count: 2}}\nempty: {}\n"),
    ],
)
def test_an_empty_entry_of_a_setting_and_a_name_with_a_dot_are_kept(
    tmp_path: Path, name: str, text: str
) -> None:
    file = tmp_path / name
    file.write_text(text)
    layers = layer({}, file, ["data.features.item={}", "data.features.age={}"])
    features = {"user": {}, "user.id": {}, "item": {"min_count": 2}, "age": {}}
    assert layers.values == {"data": {"features": features}}
    assert layers.where("data.features.user.id").startswith(str(file))
    assert layers.where("data.features.age") == "--set data.features.age={}"
    again = tmp_path / "again.toml"
    again.write_text(to_toml(layers.values))
    assert layer({}, again).values == layers.values


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("s.toml", "seed = 1\n\n[model]\n# why not\nhidden_dm = 3\n", 5),
        ("s.toml", "[ model ]\nhidden_dim = 1\n'hidden_dm' = 3\n", 3),
        ("s.toml", "model.hidden_dm = 3\n", 1),
        ("s.toml", "seed = 1\nmodel = {hidden_dm = 3}\n", 2),
        ("s.yaml", "seed: 1\nmodel:\n  # why not\n  hidden_dm: 3\n", 4),
        ("s.yml", "{seed: 1,\n model: {hidden_dim: 1,\n hidden_dm: 3}}\n", 3),
    ],
)
def test_an_unknown_key_names_file_and_line(tmp_path: Path, name: str, text: str, line: int) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"unknown setting 'model.hidden_dm'") as wrong:
        layer_over(Settings, file)
    assert wrong.value.where == f"{file}:{line}"
    assert wrong.value.fix == "did you mean 'model.hidden_dim'?"


def test_a_wrong_type_names_file_line_and_value(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('[model]\nhidden_dim = "wide"\n')
    with pytest.raises(ConfigError, match=r"setting 'model.hidden_dim' is not valid") as wrong:
        layer_over(Settings, file)
    assert (wrong.value.where, wrong.value.found) == (f"{file}:2", "'wide'")
    assert "integer" in str(wrong.value.expected)


def test_a_wrong_setting_names_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("[model]\nhidden_dim = 3\n")
    with pytest.raises(ConfigError) as wrong:
        layer_over(Settings, file, ["model.hidden_dim=0"])
    assert wrong.value.where == "--set model.hidden_dim=0"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("s.toml", b"seed = \n", "not valid TOML"),
        ("s.yaml", b"seed: [1\nmodel: 3", "not valid YAML"),
        ("s.yaml", b"- 1\n- 2\n", "holds names and values"),
        ("s.toml", b"seed = '\xff'", "cannot be read"),
        ("s.ini", b"", "TOML or YAML"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=problem) as wrong:
        layer({}, file)
    assert str(file) in str(wrong.value.where)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such settings file"):
        layer({}, tmp_path / "no.toml")


def test_an_empty_yaml_file_sets_nothing(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("# nothing\n")
    assert layer_over(Settings, file) == Settings()


LEAVES = (
    st.none()
    | st.integers(-(2**60), 2**60)
    | st.booleans()
    | st.text(max_size=8).filter(lambda text: text != "null")
    | st.floats(allow_nan=False)
    | st.lists(st.integers(0, 9), max_size=3)
)
TREES = st.dictionaries(
    st.text("abcx_1", min_size=1, max_size=4),
    LEAVES | st.dictionaries(st.text("abcx_1", min_size=1, max_size=4), LEAVES, min_size=1, max_size=4),
    max_size=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES)
def test_what_is_written_is_read_back(tmp_path: Path, tree: dict[str, Any]) -> None:
    file = tmp_path / "s.toml"
    file.write_bytes(to_toml(tree).encode())
    assert layer({}, file).values == tree


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES)
def test_toml_and_yaml_say_the_same(tmp_path: Path, tree: dict[str, Any]) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(tree, allow_unicode=False), encoding="utf-8")
    assert layer({}, file).values == tree


PLAIN = st.integers(-99, 99) | st.booleans() | st.floats(-9, 9) | st.lists(st.integers(0, 9), max_size=3)


@given(st.dictionaries(st.from_regex(r"[a-c]{1,2}", fullmatch=True), PLAIN))
def test_settings_on_the_command_line_build_the_same_tree(tree: dict[str, Any]) -> None:
    sets = [f"top.{key}={json.dumps(value)}" for key, value in tree.items()]
    assert layer({"top": {}}, None, sets).values == {"top": tree}
