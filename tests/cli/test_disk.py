"""A disk that takes no more, met by every writer of a run."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

MAIN = [sys.executable, "-c", "from recengine.cli import main; main()"]


def _at_most(bytes_of_a_file: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_of_a_file, bytes_of_a_file))


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
    done = subprocess.run(
        [*MAIN, *words],
        capture_output=True,
        text=True,
        check=False,
        env=shell_environment,
        preexec_fn=lambda: _at_most(limit),
    )
    assert done.returncode == 2, done.stderr
    assert f"{out}/" in done.stderr
    assert "a file would be larger than is allowed here" in done.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    assert not (out / "run.json").exists() or (out / "run.json").read_text().endswith("}\n")
