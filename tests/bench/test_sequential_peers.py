"""Cells of the comparison with peers that outlive the store they were measured into."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "sequential"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import bench_peers
import record


def reported(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    monkeypatch.setattr(record, "RESULTS", folder)
    monkeypatch.setattr(bench_peers, "KEPT", folder / "sequential_peers.json")
    store = str(folder / "store.jsonl")
    monkeypatch.setattr(sys, "argv", ["bench_peers.py", "report", "--store", store, *words])
    assert bench_peers.main() == 0
    found: dict[str, Any] = json.loads((folder / "sequential_peers.json").read_text())
    return found


def test_a_report_of_an_empty_store_says_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = json.loads(bench_peers.KEPT.read_text())
    (tmp_path / "sequential_peers.json").write_text(json.dumps(kept))
    found = reported(tmp_path, monkeypatch)
    for name in ("cells", "times", "qualities", "cut"):
        assert found[name] == kept[name]
    assert kept["cut"] in (tmp_path / "sequential_peers.md").read_text()
    newer = {**kept["cells"][0], "peak_mb": 1.0}
    (tmp_path / "store.jsonl").write_text(json.dumps(newer) + "\n")
    found = reported(tmp_path, monkeypatch, "--cut", "less")
    assert found["cells"] == [newer, *kept["cells"][1:]]
    assert found["cut"] == "less"


def test_nothing_is_not_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        reported(tmp_path, monkeypatch)
    assert not list(tmp_path.iterdir())
