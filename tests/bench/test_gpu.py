"""What runs on a machine with a GPU, as far as a machine without one can tell: the script and its table."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "bench" / "gpu" / "run.sh"
# A python with all that the script asks for but hypothesis; its build takes three seconds.
PYTHON = """#!/usr/bin/env bash
case "$*" in
  *hypothesis*) exit 1 ;;
  *capability*) echo 90 ;;
  *"-m pip"*) sleep 3 ;;
  *pytest\\ -m*) echo "tests ran" ;;
  *bench_ops.py*) shift; echo "benchmarks ran: $*" ;;
esac
"""


def place(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def run(folder: Path, limit: int) -> subprocess.CompletedProcess[str]:
    place(folder / "nvcc", "#!/bin/sh\n")
    python = place(folder / "python", PYTHON)
    return subprocess.run(
        ["bash", str(SCRIPT)],
        env={"PYTHON": str(python), "PATH": f"{folder}:/usr/bin:/bin", "LIMIT": str(limit)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_slow_build_leaves_time_for_tests_and_benchmarks(tmp_path: Path) -> None:
    done = run(tmp_path, 4)
    assert done.returncode == 0, done.stderr
    assert "tests ran" in done.stdout
    assert "the tests get 1 s all the same" in done.stderr
    done = run(tmp_path, 480)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "benchmarks ran: --seconds 4" in done.stdout  # 437 or so of the 480
    assert "no hypothesis here" in done.stdout


def test_gpu_tests_are_found_without_hypothesis() -> None:
    collect = """
import sys, pytest
sys.modules["hypothesis"] = None
sys.exit(pytest.main(["--collect-only", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/ops"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", collect],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "test_devices.py" in done.stdout


def test_what_is_measured_survives_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("bench_ops", ROOT / "bench" / "gpu" / "bench_ops.py")
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_ops", bench)
    spec.loader.exec_module(bench)

    def measure(case: Any, seconds: float) -> dict[str, Any]:
        if case.name == "third":
            raise KeyboardInterrupt
        return {"case": case.name, "ms": {bench.OURS: 1.0, "eager": 2.0}, "memory_mb": {}, "errors": {}} | {
            "target": None
        }

    (tmp_path / "bench" / "results").mkdir(parents=True)
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "limits", lambda: {"copy_gbytes": 1000.0, "bf16_tflops": 100.0})
    names = ("first", "second", "third", "fourth")
    monkeypatch.setattr(bench, "cases", lambda quick: [bench.Case(name, dict) for name in names])
    monkeypatch.setattr(bench, "native", lambda: SimpleNamespace(cuda=True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a device")
    monkeypatch.setattr(sys, "argv", ["bench_ops.py"])
    with pytest.raises(KeyboardInterrupt):
        bench.main()
    record = json.loads((tmp_path / "bench" / "results" / "gpu_ops.json").read_text())
    assert [row["case"] for row in record["rows"]] == ["first", "second"]
    assert record["left_out"] == ["third", "fourth"]
    table = (tmp_path / "bench" / "results" / "gpu_ops.md").read_text()
    assert "| second | 1 |  |  | eager 2.00 |" in table
    assert "Left out, no time: third; fourth." in table
    assert "| second | 1 |" in capsys.readouterr().out
