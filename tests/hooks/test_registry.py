"""Registries: names to lazily loaded objects, with errors that help."""

from __future__ import annotations

import pytest

from recengine.errors import PluginError, UsageError
from recengine.hooks import Registry


@pytest.fixture
def models() -> Registry:
    registry = Registry("model")
    with registry.registering("first"):
        registry.add("sasrec", "collections:OrderedDict", summary="a model")
        registry.add("ease", "no.such.module:Thing")
    return registry


def test_targets_are_imported_only_when_they_are_asked_for(models: Registry) -> None:
    from collections import OrderedDict

    entry = models.get("sasrec")
    assert entry.target == "collections:OrderedDict"
    assert entry.load() is OrderedDict
    assert entry.load_config() is None
    assert (entry.plugin, entry.summary) == ("first", "a model")


def test_a_target_that_does_not_import_names_the_plugin_and_the_reason(models: Registry) -> None:
    with pytest.raises(PluginError, match=r"'ease' of plugin 'first' cannot be loaded") as broken:
        models.get("ease").load()
    assert "No module named 'no'" in str(broken.value)
    assert "recengine plugins check first" in str(broken.value)


def test_an_unknown_name_gets_a_did_you_mean(models: Registry) -> None:
    with pytest.raises(UsageError, match="there is no model 'sasrce'") as unknown:
        models.get("sasrce")
    assert unknown.value.fix == "did you mean 'sasrec'?"
    assert unknown.value.expected == "one of ease, sasrec"


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("model", "recengine models list"),
        ("loss", "recengine losses list"),
        ("tuner", "recengine plugins list --kind tuner"),
    ],
)
def test_a_name_near_nothing_says_how_to_list(kind: str, command: str) -> None:
    with pytest.raises(UsageError) as unknown:
        Registry(kind).get("zzz")
    assert unknown.value.fix == f"list them with: {command}"


def test_a_name_can_be_taken_only_once(models: Registry) -> None:
    with (
        pytest.raises(PluginError, match="two plugins register the model 'ease'") as taken,
        models.registering("b"),
    ):
        models.add("ease", object())
    assert taken.value.found == "'first' and 'b'"


@pytest.mark.parametrize("name", ["", "Sasrec", "a b", "-x", "a/b", 3])
def test_a_name_must_be_plain(models: Registry, name: object) -> None:
    with pytest.raises(PluginError, match="plain name"):
        models.add(name, object())  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["module", "module:", ":Name", "mod ule:Name", "module:Name.method()"])
def test_a_string_target_must_be_module_and_name(models: Registry, target: str) -> None:
    with pytest.raises(PluginError, match="malformed target"):
        models.add("new", target)


def test_what_raises_while_registering_leaves_no_trace(models: Registry) -> None:
    with pytest.raises(PluginError), models.registering("second"):
        models.add("new", object()) or models.add("new", object())
    assert [entry.name for entry in models] == ["ease", "sasrec"]


def test_forget_takes_out_one_plugin(models: Registry) -> None:
    with models.registering("second"):
        models.add("new", object())
    models.forget("first")
    assert [entry.name for entry in models] == ["new"]
    assert len(models) == 1
    assert "ease" not in models
