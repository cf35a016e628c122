"""Ctrl-C in a fit leaves a resumable run and says how to go on."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MAIN = [sys.executable, "-c", "from recengine.cli import main; main()"]


@pytest.mark.slow
def test_an_interrupted_fit_can_be_taken_up_again(
    small_table: Path, tmp_path: Path, shell_environment: dict[str, str]
) -> None:
    folder = tmp_path / "run"
    settings = ["--set", "model.hidden_dim=8", "--set", "training.device=cpu", "--set", "training.patience=0"]
    words = ["fit", "sasrec", "--data", str(small_table), *settings]
    running = subprocess.Popen(
        [*MAIN, *words, "--set", "training.epochs=5000", "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=shell_environment,
    )
    _wait_for(folder / "checkpoints" / "latest", running)
    running.send_signal(signal.SIGINT)
    _, printed = running.communicate(timeout=60)
    assert running.returncode == 130, printed
    assert not (folder / "run.json").exists()

    [again] = [line.strip() for line in printed.splitlines() if line.strip().startswith("recengine fit")]
    assert shlex.split(again)[-3:] == ["--out", str(folder), "--resume"]
    epochs = _finished_epochs(folder) + 2
    command = shlex.split(again.replace("epochs=5000", f"epochs={epochs}"))[1:]
    done = subprocess.run(
        [*MAIN, *command], capture_output=True, text=True, check=False, env=shell_environment
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "run.json").is_file()
    lines = (folder / "history.jsonl").read_text().splitlines()
    assert len(lines) == epochs


def _wait_for(path: Path, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.02)


def _finished_epochs(folder: Path) -> int:
    name = (folder / "checkpoints" / "latest").read_text().strip()
    return int(name.split("-")[1])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_may_not_be_written(
    small_table: Path, tmp_path: Path, shell_environment: dict[str, str]
) -> None:
    tmp_path.chmod(0o500)
    words = ["fit", "popularity", "--data", str(small_table), "--out", str(tmp_path / "run")]
    done = subprocess.run([*MAIN, *words], capture_output=True, text=True, check=False, env=shell_environment)
    assert done.returncode == 2
    assert "permission denied" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interrupted_comparison_keeps_what_is_finished(
    small_table: Path, tmp_path: Path, shell_environment: dict[str, str], workers: str
) -> None:
    """Ctrl-C reaches the command and its workers, as it does from a terminal."""
    out = tmp_path / "runs"
    settings = ["--set", "model.hidden_dim=8", "--set", "training.device=cpu", "--set", "training.patience=0"]
    words = ["compare", "sasrec", "--data", str(small_table), "--seeds", "2", "--out", str(out), *settings]
    words += ["--workers", workers]
    first = [*MAIN, *words, "--set", "training.epochs=5000"]
    running = subprocess.Popen(
        first, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=shell_environment,
        start_new_session=True,
    )  # fmt: skip
    _wait_for(out / "sasrec-seed0" / "checkpoints" / "latest", running)
    os.killpg(running.pid, signal.SIGINT)
    _, printed = running.communicate(timeout=60)
    assert running.returncode == 130, printed
    assert "0 of 2 runs are finished and kept" in printed
    assert "run the same command again" in printed
    assert "Traceback" not in printed
    epochs = _finished_epochs(out / "sasrec-seed0") + 2
    done = subprocess.run(
        [*MAIN, *words, "--set", f"training.epochs={epochs}", "--json"],
        capture_output=True, text=True, check=False, env=shell_environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (out / "sasrec-seed0" / "history.jsonl").read_text().splitlines()
    assert len(lines) == epochs  # taken up again from the checkpoint, not begun anew
    assert (out / "sasrec-seed1" / "evaluation.json").is_file()


def test_the_command_that_goes_on_names_plugins_and_the_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from recengine.cli.fit import _again
    from recengine.hooks import host

    monkeypatch.setattr(host(), "files", [Path("mine.py")])
    told = _again("mine", "log.csv", ["time=ts"], [], None, tmp_path, 3, Path("run.html"))
    words = shlex.split(told)
    assert words[:4] == ["recengine", "--plugin", "mine.py", "fit"]
    assert words[-5:] == ["--report", "run.html", "--out", str(tmp_path), "--resume"]
