"""Commands that look: names, settings, plugins, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recengine.hooks import host


@pytest.mark.parametrize(
    ("group", "kind"),
    [("models", "model"), ("losses", "loss"), ("metrics", "metric"), ("datasets", "dataset")],
)
def test_lists_show_what_is_registered(cli: Any, group: str, kind: str) -> None:
    names = [entry.name for entry in host().registries[kind]]
    listed = json.loads(cli(group, "list", "--json").stdout)
    assert [entry["name"] for entry in listed] == names
    assert all(entry["summary"] and entry["plugin"] for entry in listed)
    assert [name for name in names if name not in cli(group, "list").stdout] == []


def test_show_has_the_settings(cli: Any) -> None:
    shown = json.loads(cli("models", "show", "sasrec", "--json").stdout)
    fields = {field["key"]: field for field in shown["settings"]}
    assert fields["hidden_dim"]["default"] == 64
    assert fields["dropout"]["description"]
    assert "hidden_dim" in cli("models", "show", "sasrec").stdout
    shown = json.loads(cli("losses", "show", "bsl", "--json").stdout)
    search = {field["key"]: field["search"] for field in shown["settings"]}
    assert search["negative_weight"] == "0.8 .. 1.5 if form is grouped"
    assert search["temperature"] == "0.01 .. 0.5 (log)"


def test_show_a_metric_gives_its_definition(cli: Any) -> None:
    from recengine.testing.base import made

    definition = made(host().registries["metric"].get("ndcg").load()).definition
    assert definition in cli("metrics", "show", "ndcg").stdout


def test_an_unknown_model_gets_a_did_you_mean(cli: Any) -> None:
    result = cli("models", "show", "sasrce")
    assert result.exit_code == 2
    assert "did you mean 'sasrec'?" in result.stderr


def test_config_show_is_a_settings_file(cli: Any, tmp_path: Path) -> None:
    shown = cli("config", "show", "sasrec", "--set", "model.hidden_dim=8")
    file = tmp_path / "s.toml"
    file.write_text(shown.stdout)
    again = cli("config", "show", "sasrec", "--config", file)
    assert again.stdout == shown.stdout
    assert "hidden_dim = 8" in shown.stdout


def test_config_check_names_file_line_and_key(cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("[model]\nhidden_dim = 8\n\n[training]\nlearnig_rate = 0.5\n")
    result = cli("config", "check", "sasrec", file)
    assert result.exit_code == 2
    assert f"{file}:5: unknown setting 'training.learnig_rate'" in result.stderr
    assert "did you mean 'training.learning_rate'?" in result.stderr
    file.write_text("[training]\nlearning_rate = 0.5\n")
    assert cli("config", "check", "sasrec", file).exit_code == 0


def test_config_of_another_model_is_refused(cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('name = "ease"\n')
    result = cli("config", "check", "sasrec", file)
    assert result.exit_code == 2
    assert "settings of another model" in result.stderr


def test_config_schema_describes_every_section(cli: Any) -> None:
    schema = json.loads(cli("config", "schema", "sasrec").stdout)
    assert set(schema["properties"]) >= {"model", "loss", "training", "split", "evaluation"}
    assert schema["properties"]["model"]["properties"]["hidden_dim"]["default"] == 64
    assert "x-search" in schema["properties"]["training"]["properties"]["learning_rate"]


def test_config_diff_tells_what_differs(cli: Any, tmp_path: Path) -> None:
    left, right = tmp_path / "a.toml", tmp_path / "b.yaml"
    left.write_text("[model]\nhidden_dim = 8\ndropout = 0.5\n")
    right.write_text("model: {hidden_dim: 16, dropout: 0.5}\n")
    result = cli("config", "diff", left, right, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == [{"key": "model.hidden_dim", "left": 8, "right": 16}]
    assert cli("config", "diff", left, left).exit_code == 0


def test_plugins_are_listed_with_what_they_register(cli: Any) -> None:
    found = json.loads(cli("plugins", "list", "--json").stdout)
    by_name = {plugin["name"]: plugin for plugin in found["plugins"]}
    assert {"kind": "model", "name": "ease"}.items() <= by_name["ease"]["registers"][0].items()
    assert found["broken"] == []
    losses = json.loads(cli("plugins", "list", "--kind", "loss", "--json").stdout)["plugins"]
    assert [plugin["name"] for plugin in losses] == sorted(
        {entry.plugin for entry in host().registries["loss"]}
    )


def test_one_plugin_shows_its_hooks(cli: Any) -> None:
    assert "recengine_register_models" in cli("plugins", "show", "ease").stdout
    unknown = cli("plugins", "show", "eaes")
    assert unknown.exit_code == 2
    assert "did you mean 'ease'?" in unknown.stderr


def test_plugins_check_reports_each_check(cli: Any) -> None:
    report = json.loads(cli("plugins", "check", "popularity", "--json").stdout)
    assert report["passed"] is True
    outcomes = {check["check"]: check["outcome"] for check in report["checks"]}
    assert outcomes["asked twice it answers the same"] == "passed"
    assert outcomes["learns a planted pattern"] == "skipped"


def test_plugins_new_writes_a_project(cli: Any, tmp_path: Path) -> None:
    made = json.loads(cli("plugins", "new", "mine", "--kind", "metric", "--out", tmp_path, "--json").stdout)
    assert Path(made["project"]) == tmp_path / "recengine-mine"
    assert (tmp_path / "recengine-mine" / "pyproject.toml").is_file()
    assert cli("plugins", "new", "Bad Name", "--out", tmp_path).exit_code == 2


def test_doctor_says_what_is_live(cli: Any) -> None:
    result = cli("doctor", "--json")
    facts = json.loads(result.stdout)
    assert facts["ok"] is (result.exit_code == 0)
    assert facts["versions"]["torch"]
    assert facts["native"]["cpu_kernels"]
    assert facts["machine"]["cores"] >= 1
    assert "ease" in facts["plugins"]["live"]
    assert set(facts["extras"]) >= {"demo", "test"}
    assert facts["paths"]["data_cache"]


def test_doctor_names_what_is_wrong(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from recengine.hooks import Broken

    monkeypatch.setattr(host(), "broken", [Broken("bad", "import failed: no libmagic")])
    result = cli("doctor")
    assert result.exit_code == 1
    assert "fault: plugin bad (import failed: no libmagic)" in result.stdout
