"""A runner of the command line in this process, and a small table of generated interactions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

Cli = Callable[..., Any]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    """``cli("models", "list")``: the result, with ``stdout``, ``stderr``, ``exit_code``."""
    from recengine.cli.app import app

    monkeypatch.delenv("RECENGINE_TRACEBACK", raising=False)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="session")
def small_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 users with 8 events each on 30 items, one a day, in taste groups."""
    rng = np.random.default_rng(0)
    lines = ["user,item,time"]
    for user in range(60):
        items = rng.permutation(10)[:8] + 10 * (user % 3)
        lines += [f"u{user},{item},{day}" for day, item in enumerate(items)]
    path = tmp_path_factory.mktemp("data") / "small.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def small_run(small_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of sasrec, fitted once a session by the command itself."""
    from recengine.cli.app import app

    folder = tmp_path_factory.mktemp("runs") / "sasrec"
    settings = ["training.epochs=2", "model.hidden_dim=8", "training.device=cpu"]
    words = ["fit", "sasrec", "--data", str(small_table), "--out", str(folder), "--seed", "3"]
    result = CliRunner().invoke(app, [*words, *(word for text in settings for word in ("--set", text))])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="session")
def shell_environment() -> dict[str, str]:
    """For subprocesses: nothing of this session's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RECENGINE_")}
