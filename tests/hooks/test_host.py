"""The plugin host: all or nothing, a broken plugin is named and isolated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recengine.errors import PluginError, PluginWarning, UsageError
from recengine.hooks import Host, hookimpl, manager


@pytest.fixture
def plugins() -> Host:
    return Host()


class Good:
    @hookimpl
    def recengine_register_models(self, registry: Any) -> None:
        registry.add("good", object())

    @hookimpl
    def recengine_register_losses(self, registry: Any) -> None:
        registry.add("good_loss", object())


def test_a_plugin_fills_the_registries(plugins: Host) -> None:
    assert plugins.add(Good(), "good")
    assert plugins.names() == ["good"]
    assert plugins.hooks_of("good") == ["recengine_register_losses", "recengine_register_models"]
    assert plugins.registries["model"].get("good").plugin == "good"
    assert plugins.broken == []


def test_a_plugin_that_raises_half_way_leaves_nothing(plugins: Host) -> None:
    class Half(Good):
        @hookimpl
        def recengine_register_metrics(self, registry: Any) -> None:
            raise RuntimeError("no luck")

    with pytest.warns(PluginWarning, match="plugin 'half' was skipped: RuntimeError: no luck"):
        assert not plugins.add(Half(), "half")
    assert plugins.names() == []
    assert all(len(registry) == 0 for registry in plugins.registries.values())
    assert [broken.name for broken in plugins.broken] == ["half"]


def test_a_misspelt_hook_is_named_with_a_did_you_mean(plugins: Host) -> None:
    class Misspelt:
        @hookimpl
        def recengine_register_model(self, registry: Any) -> None: ...

    with pytest.warns(PluginWarning, match="there is no hook 'recengine_register_model'"):
        assert not plugins.add(Misspelt(), "misspelt")
    assert "did you mean 'recengine_register_models'?" in plugins.broken[0].reason


def test_a_misspelt_hook_does_not_spoil_the_next_plugin(plugins: Host) -> None:
    class Misspelt:
        @hookimpl
        def recengine_fit_begin(self, run: Any) -> None: ...

    with pytest.warns(PluginWarning):
        plugins.add(Misspelt(), "misspelt")
    assert plugins.add(Good(), "good")


def test_a_hook_of_another_version_may_be_marked_optional(plugins: Host) -> None:
    class Newer(Good):
        @hookimpl(optionalhook=True)
        def recengine_from_the_future(self, run: Any) -> None: ...

    assert plugins.add(Newer(), "newer")


def test_a_hook_with_an_unknown_argument_is_refused(plugins: Host) -> None:
    class Wrong:
        @hookimpl
        def recengine_epoch_end(self, rum: Any) -> None: ...

    with pytest.warns(PluginWarning, match="rum"):
        assert not plugins.add(Wrong(), "wrong")
    assert plugins.names() == []


def test_a_second_plugin_of_the_same_name_leaves_the_first_alone(plugins: Host) -> None:
    plugins.add(Good(), "good")
    with pytest.warns(PluginWarning, match="there is a plugin 'good' already"):
        assert not plugins.add(Good(), "good")
    assert plugins.names() == ["good"]
    assert "good" in plugins.registries["model"]


def test_two_plugins_with_one_name_for_a_model(plugins: Host) -> None:
    plugins.add(Good(), "one")
    with pytest.warns(PluginWarning, match="two plugins register the model 'good'"):
        assert not plugins.add(Good(), "two")
    assert plugins.registries["model"].get("good").plugin == "one"


def test_remove_takes_everything_of_a_plugin(plugins: Host) -> None:
    plugins.add(Good(), "good")
    plugins.remove("good")
    assert plugins.names() == []
    assert "good" not in plugins.registries["model"]
    with pytest.raises(UsageError, match="there is no plugin 'good'"):
        plugins.remove("good")


FILE = """
from recengine.hooks import hookimpl

@hookimpl
def recengine_register_metrics(registry):
    registry.add("mine", "recengine_plugin_mine:Mine", summary="mine")

class Mine:
    name = "mine"
"""


def test_a_one_file_plugin(plugins: Host, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    plugins.add_file(path)
    assert plugins.registries["metric"].get("mine").load().name == "mine"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import no_such_module_here", "No module named 'no_such_module_here'"),
        ("def broken(:", "SyntaxError"),
        (
            "from recengine.hooks import hookimpl\n@hookimpl\ndef recengine_fit_ended(run): ...",
            "there is no hook 'recengine_fit_ended'",
        ),
    ],
)
def test_a_file_that_was_asked_for_and_is_broken_is_an_error(
    plugins: Host, tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(PluginError, match=r"mine\.py: the plugin file cannot be loaded") as broken:
        plugins.add_file(path)
    assert problem in str(broken.value)
    assert plugins.names() == []
    assert "recengine_plugin_mine" not in sys.modules


def test_a_file_that_is_not_there(plugins: Host, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such plugin file"):
        plugins.add_file(tmp_path / "nowhere.py")


def _points(monkeypatch: pytest.MonkeyPatch, **points: Any) -> None:
    made = [
        SimpleNamespace(name=name, load=found if callable(found) else lambda found=found: found)
        for name, found in points.items()
    ]
    monkeypatch.setattr(manager, "entry_points", lambda group: made)


def _raise() -> None:
    raise ImportError("libmagic.so not found")


def test_an_entry_point_that_does_not_import_is_skipped_and_named(
    plugins: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    _points(monkeypatch, bad=_raise, good=Good())
    monkeypatch.delenv("RECENGINE_LOAD_PLUGINS", raising=False)
    with pytest.warns(PluginWarning, match=r"'bad' was skipped: import failed: ImportError: libmagic\.so"):
        plugins.discover()
    assert plugins.names() == ["good"]


def test_the_allow_list_decides_what_is_loaded(plugins: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    _points(monkeypatch, bad=_raise, good=Good())
    monkeypatch.setenv("RECENGINE_LOAD_PLUGINS", " good ,")
    plugins.discover()
    assert plugins.names() == ["good"]
    assert plugins.broken == []


def test_an_empty_allow_list_loads_nothing(plugins: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    _points(monkeypatch, good=Good())
    monkeypatch.setenv("RECENGINE_LOAD_PLUGINS", "")
    plugins.discover()
    assert plugins.names() == []


def test_an_allow_list_with_an_unknown_name_says_so(plugins: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    _points(monkeypatch, good=Good())
    monkeypatch.setenv("RECENGINE_LOAD_PLUGINS", "good,gone")
    with pytest.warns(PluginWarning, match="'gone' was skipped: named in RECENGINE_LOAD_PLUGINS"):
        plugins.discover()
    assert plugins.names() == ["good"]


def test_tracing_prints_each_hook_call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECENGINE_TRACE_PLUGINS", "1")
    Host().add(Good(), "good")
    traced = capsys.readouterr().err
    assert "recengine_register_models" in traced
    assert "finish recengine_register_models" in traced


def test_without_tracing_nothing_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RECENGINE_TRACE_PLUGINS", raising=False)
    Host().add(Good(), "good")
    assert capsys.readouterr() == ("", "")


def test_discovering_plugins_imports_no_torch() -> None:
    code = "import sys, recengine.hooks as h; h.host(); sys.exit(bool({'torch', 'polars'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
