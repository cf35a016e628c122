"""A disk that takes no more, met by every writer of a run."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import recengine
from recengine.testing import planted_clicks

MAIN = [sys.executable, "-c", "from recengine.cli import main; main()"]


def _at_most(bytes_of_a_file: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_of_a_file, bytes_of_a_file))


def _limited(words: list[str], limit: int, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The command with these words, in a process whose files may have ``limit`` bytes."""
    return subprocess.run(
        [*MAIN, *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        preexec_fn=lambda: _at_most(limit),
    )


@pytest.mark.parametrize(
    ("model", "limit"), [("ease", 500), ("ease", 3000), ("sasrec", 3000), ("sasrec", 30_000)]
)
def test_a_file_that_cannot_be_written_whole(
    model: str, limit: int, small_table: Path, tmp_path: Path, shell_environment: dict[str, str]
) -> None:
    out = tmp_path / "run"
    words = ["fit", model, "--data", str(small_table), "--out", str(out)]
    if model == "sasrec":
        words += ["--set", "training.epochs=1"]
    done = _limited(words, limit, shell_environment)
    assert done.returncode == 2, done.stderr
    assert f"{out}/" in done.stderr
    assert "a file would be larger than is allowed here" in done.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    assert not (out / "run.json").exists() or (out / "run.json").read_text().endswith("}\n")


@pytest.mark.parametrize("limit", [3000, 600_000], ids=["a batch", "the whole"])
def test_predictions_that_cannot_be_written_whole(
    limit: int, tmp_path: Path, shell_environment: dict[str, str]
) -> None:
    settings = {"training": {"epochs": 1, "device": "cpu"}}
    recengine.fit("lr", planted_clicks(300), settings=settings, directory=tmp_path / "run")
    asked, out = tmp_path / "asked.parquet", tmp_path / "answers" / "out.parquet"
    random = np.random.default_rng(0)
    frame = pl.concat([planted_clicks(300).frames[0]] * 300)
    frame.with_columns(price=random.choice(1000, frame.height) / 8).write_parquet(asked)
    words = ["predict", str(tmp_path / "run"), str(asked), "--out", str(out)]
    done = _limited(words, limit, shell_environment)
    assert done.returncode == 2, done.stderr
    assert f"{out}: a file would be larger than is allowed here" in done.stderr
    assert not list(out.parent.iterdir())
