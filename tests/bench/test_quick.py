"""Every bench that has a short form and no peer to install runs in it, and leaves the results alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
DATA = Path(os.environ.get("RECENGINE_DATA", ROOT.parent / "shared" / "data"))
QUICK = [
    "cli/bench_startup.py",
    "collaborative/bench_dsl.py",
    "collaborative/bench_epoch.py",
    "collaborative/bench_published.py",
    "data/bench_load.py",
    "evaluation/bench_evaluate.py",
    "evidence/bench_bootstrap.py",
    "evidence/coverage.py",
    "evidence/simulate.py",
    "ranking/bench_scaling.py",
    "recourse/bench_exact.py",
    "sequential/bench_cost.py",
    "sequential/bench_precision.py",
    "sequential/bench_scaling.py",
    "sequential/bench_serving.py",
    "tuning/bench_proposal.py",
]
ON_REAL_DATA = [
    "evidence/golden.py",
    "ranking/bench_off_policy.py",
    "ranking/bench_quality.py",
    "ranking/bench_stages.py",
    "recourse/bench_stability.py",
]


def results() -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in RESULTS.iterdir()}


@pytest.mark.parametrize("script", QUICK + ON_REAL_DATA)
def test_the_short_form_runs(script: str, tmp_path: Path) -> None:
    if script in ON_REAL_DATA and not DATA.is_dir():
        pytest.skip(f"the real data are not here: {DATA}")
    before = results()
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / script), "--quick"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "RECENGINE_CACHE": str(tmp_path / "cache")},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert results() == before
    known = {claim["id"] for claim in tomllib.loads((ROOT / "bench" / "claims.toml").read_text())["claim"]}
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"claim"')]
    told = {line["claim"]: line["figure"] for line in lines}
    assert set(told) <= {*known, ""}
    if script == "sequential/bench_cost.py":  # bytes do not hang on the time that a short run has
        assert told["sequential.memory-model-error"] <= 5
