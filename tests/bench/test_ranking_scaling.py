"""The scaling benchmark's command measures the cells that the register's figure comes from."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench" / "ranking"))

import bench_scaling as scaling  # noqa: E402


def test_the_command_asks_for_the_cells_of_the_register() -> None:
    told = json.loads((ROOT / "bench" / "results" / "ranking_scaling.json").read_text())["cells"]
    measured = {(one["model"], one["size"], one["seed"]) for one in told}
    assert set(scaling.asked(list(scaling.NAMES), None, None)) == measured
    claims = tomllib.loads((ROOT / "bench" / "claims.toml").read_text())["claim"]
    (claim,) = (one for one in claims if one["id"] == "ranking.scaling-gain")
    assert claim["command"] == "python bench/ranking/bench_scaling.py run tml"
    assert scaling.gain(told) == claim["figure"]


def test_seeds_and_sizes_may_be_chosen() -> None:
    assert scaling.asked(["dcnv2"], [0, 4], 2) == [
        ("dcnv2", 0, 0),
        ("dcnv2", 4, 0),
        ("dcnv2", 0, 1),
        ("dcnv2", 4, 1),
    ]
