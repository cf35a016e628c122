"""Failures in plain words, with the right exit code."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import typer

from recengine.cli.failures import explained
from recengine.errors import DataError, DataWarning, LeakageError, PluginError, PluginWarning, RecengineError


def _exit_code(error: BaseException, *, as_json: bool = False) -> int:
    with pytest.raises(typer.Exit) as stopped, explained(as_json=as_json):
        raise error
    return stopped.value.exit_code


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("no such column", where="a.csv:1", fix="name it"), 2, "a.csv:1: no such column"),
        (LeakageError("seen"), 3, "seen"),
        (PluginError("broken"), 4, "broken"),
        (RecengineError("something"), 1, "something"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/model"), 2, "/out/model: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 2, "/root/x: permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "/out"), 2, "the file system is read-only"),
        (OSError(errno.EIO, "Input/output error", "/dev/x"), 1, "/dev/x: Input/output error"),
        (MemoryError(), 1, "out of memory"),
        (ZeroDivisionError("division by zero"), 1, "unexpected ZeroDivisionError"),
    ],
)
def test_each_failure_has_its_words_and_its_code(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _exit_code(error) == code
    printed = capsys.readouterr()
    assert text in printed.err
    assert printed.out == ""
    assert "Traceback" not in printed.err


def test_for_machines_the_failure_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    _exit_code(DataError("bad", where="a.csv", found=3, expected="4"), as_json=True)
    assert json.loads(capsys.readouterr().err) == {
        "error": "DataError",
        "exit_code": 2,
        "problem": "bad",
        "where": "a.csv",
        "found": "3",
        "expected": "4",
    }


def test_the_traceback_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECENGINE_TRACEBACK", "1")
    with pytest.raises(DataError), explained(as_json=False):
        raise DataError("bad")


def test_a_closed_pipe_is_left_to_the_caller() -> None:
    with pytest.raises(BrokenPipeError), explained(as_json=False):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.parametrize("category", [PluginWarning, DataWarning])
def test_own_warnings_are_one_line(capsys: pytest.CaptureFixture[str], category: type[Warning]) -> None:
    with warnings.catch_warnings(), explained(as_json=False):
        warnings.simplefilter("always")
        warnings.warn("plugin 'x' was skipped: why", category, stacklevel=1)
    assert capsys.readouterr().err == "warning: plugin 'x' was skipped: why\n"


PLUGIN = """
import torch
from recengine.hooks import hookimpl

class Model(torch.nn.Module):
    def __init__(self, config, facts):
        super().__init__()
        self.n = facts.n_items
    def fit_directly(self, train, seed, progress):
        pass
    def score_items(self, histories):
        return torch.full((histories.users.shape[0], self.n), float("nan"))

class Raises(Model):
    def score_items(self, histories):
        return {}["inside"]

class Flat(Model):
    def score_items(self, histories):
        return torch.zeros(3)

class Lonely(torch.nn.Module):
    def __init__(self, config):
        super().__init__()

@hookimpl
def recengine_register_models(registry):
    for made in (Model, Raises, Flat, Lonely):
        registry.add(made.__name__.lower(), made, summary="wrong on purpose", learns=False)
"""


def test_what_a_plugin_does_wrong_is_told_with_its_name(
    small_table: Path, tmp_path: Path, shell_environment: dict[str, str]
) -> None:
    (tmp_path / "wrong.py").write_text(PLUGIN)
    code = (
        "import sys; from typer.testing import CliRunner; from recengine.cli.app import app\n"
        "from recengine.ops._library import native; native()\n"
        "for name in ('model', 'raises', 'flat', 'lonely'):\n"
        "    words = ['--plugin', 'wrong.py'] if name == 'model' else []\n"
        "    words += ['fit', name, '--data', sys.argv[1], '--out', name]\n"
        "    done = CliRunner().invoke(app, words); print(done.exit_code, done.stderr)\n"
    )
    words = [sys.executable, "-c", code, str(small_table)]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, env=shell_environment, check=True
    )
    told = done.stdout
    assert "Model.score_items gives no ranking\n  found: NaN or infinity" in told
    assert re.search(r"wrong\.py, line 16: the plugin 'wrong' failed: KeyError: 'inside'", told)
    assert "Flat.score_items gives no ranking\n  found: shape [3]" in told
    assert "the model 'lonely' of plugin 'wrong' cannot be made" in told
    assert re.findall(r"^\d+(?= )", told, re.MULTILINE) == ["4"] * 4
