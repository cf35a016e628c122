"""Starting up is light, and what is unknown is answered with help."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORK = ["quickstart", "fit", "evaluate", "recommend", "predict", "export", "compare", "reproduce"]
LOOK = ["data", "models", "losses", "metrics", "datasets", "config", "plugins", "doctor"]
COMMANDS = WORK + LOOK
MAIN = [sys.executable, "-m", "recengine"]
HEAVY = {"torch", "polars", "scipy", "pandas", "recengine.training", "recengine.data.reading"}


def _modules_after(*words: str) -> set[str]:
    code = (
        "import json, sys\n"
        "from recengine.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('\\n' + json.dumps([*sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.strip().splitlines()[-1]))


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("fit", "--help"), ("data", "--help")])
def test_help_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    loaded = _modules_after(*words)
    assert (
        loaded & {"torch", "polars", "scipy", "pandas", "recengine.training", "recengine.data.reading"}
        == set()
    )


def test_the_first_page_of_help_needs_no_settings_library() -> None:
    assert _modules_after("--help") & {"pydantic_core", "pluggy", "numpy"} == set()


def test_help_takes_half_a_second_of_processor_time_at_most() -> None:
    before = os.times()
    subprocess.run(
        [sys.executable, "-c", "from recengine.cli import main; main()", "--help"],
        capture_output=True,
        check=True,
    )
    after = os.times()
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    assert spent <= 0.5


def test_help_lists_every_command(cli: Any) -> None:
    result = cli("--help")
    assert result.exit_code == 0
    assert [name for name in COMMANDS if name not in result.stdout] == []


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "quickstart"])
def test_every_command_has_help(cli: Any, command: str) -> None:
    result = cli(command, "--help")
    assert result.exit_code == 0, result.output
    assert "Usage" in result.stdout


def test_no_command_is_help(cli: Any) -> None:
    assert "Usage" in cli().output


def test_the_version(cli: Any) -> None:
    from recengine import __version__

    assert cli("--version").stdout.strip() == f"recengine {__version__}"


def test_an_unknown_command_gets_a_did_you_mean(cli: Any) -> None:
    result = cli("modles", "list")
    assert result.exit_code == 2
    assert "did you mean 'models'?" in result.stderr


def test_an_unknown_option_is_refused(cli: Any) -> None:
    assert cli("models", "list", "--jsno").exit_code == 2


def test_completion_knows_the_commands(shell_environment: dict[str, str]) -> None:
    asked = {"_RECENGINE_COMPLETE": "complete_bash", "COMP_WORDS": "recengine mo", "COMP_CWORD": "1"}
    done = subprocess.run(
        MAIN,
        capture_output=True,
        text=True,
        check=False,
        env={**shell_environment, **asked},
    )
    assert done.stdout.split() == ["models"]


PLUGIN = """
import typer
from recengine.hooks import hookimpl

@hookimpl
def recengine_register_commands(registry):
    registry.add("greet_somebody", greet, summary="Say hello")

def greet(name: str, loud: bool = False) -> None:
    "Say hello."
    typer.echo(f"HELLO {name}" if loud else f"hello {name}")
"""


def test_a_file_may_add_a_command(tmp_path: Path, shell_environment: dict[str, str]) -> None:
    path = tmp_path / "greeting.py"
    path.write_text(PLUGIN)
    command = [*MAIN, "--plugin", str(path)]
    run = [*command, "greet_somebody", "Ada", "--loud"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=shell_environment)
    assert (done.returncode, done.stdout) == (0, "HELLO Ada\n"), done.stderr
    typo = [*command, "greet_sombody", "Ada"]
    done = subprocess.run(typo, capture_output=True, text=True, check=False, env=shell_environment)
    assert done.returncode == 2
    assert "did you mean 'greet_somebody'?" in done.stderr


def test_an_installed_plugin_adds_a_command_to_the_help(
    tmp_path: Path, shell_environment: dict[str, str]
) -> None:
    (tmp_path / "greeting.py").write_text(PLUGIN)
    facts = tmp_path / "greeting-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[recengine]\ngreeting = greeting\n")
    path = f"{tmp_path}:{shell_environment.get('PYTHONPATH', '')}".rstrip(":")
    environment = {**shell_environment, "PYTHONPATH": path}
    told = subprocess.run([*MAIN, "--help"], capture_output=True, text=True, check=False, env=environment)
    assert "greet_somebody" in told.stdout, told.stdout + told.stderr
    assert "Say hello" in told.stdout
    asked = [*MAIN, "greet_somebody", "Ada"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "hello Ada\n"), done.stderr


def test_a_broken_plugin_file_is_named(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import no_such_thing")
    result = cli("--plugin", path, "models", "list")
    assert result.exit_code == 4
    assert "No module named 'no_such_thing'" in result.stderr
    assert str(path) in result.stderr
