"""The report of the runs on planted problems: what its tests pool, and what it keeps for the claims."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "tuning"))

import synthetic_report


def run_of(problem: str, method: str, seed: int, share: float, unit: float) -> dict[str, Any]:
    """One whose best trial leaves ``share`` of the default's regret, in ``unit``s."""
    return {
        "problem": problem, "method": method, "seed": seed, "trials": 30, "best": 5.0 * unit, "parameters": 2,
        "values": [1.0 * unit, (5.0 - 4.0 * share) * unit], "feasible": [True, True], "changed": [0, 1],
        "origins": ["pruned"], "seconds": [0.1], "final_changed": 1, "final_irrelevant": 0,
        "final_value": (5.0 - 4.0 * share) * unit,
    }  # fmt: skip


def rows() -> list[dict[str, Any]]:
    """In small units bonsai is much better on every seed, in large units a little worse."""
    made = []
    for seed in range(5):
        made += [
            run_of("small", "bonsai", seed, 0.1 + 0.01 * seed, 1.0),
            run_of("small", "ax", seed, 0.8, 1.0),
        ]
        made += [
            run_of("large", "bonsai", seed, 0.32 + 0.01 * seed, 1e3),
            run_of("large", "ax", seed, 0.3, 1e3),
        ]
    return made


def test_regret_over_the_defaults_weighs_problems_of_all_scales_alike() -> None:
    pairs = synthetic_report.paired(rows(), 30)
    assert {round(synthetic_report.normalised(own), 3) for own, _ in pairs if own["seed"] == 0} == {0.1, 0.32}
    found = synthetic_report.tests(pairs, 1)
    assert found["regret at T"]["lower"] == found["regret at T over the default's"]["lower"] == 5
    # the largest difference is the large problem's in its own units, the small one's as a share
    for measure, problem in ((synthetic_report.regret, "large"), (synthetic_report.normalised, "small")):
        largest = max(pairs, key=lambda pair: abs(measure(pair[0]) - measure(pair[1])))
        assert largest[0]["problem"] == problem
    each = synthetic_report.by_problem(pairs)
    assert (each["small"]["lower"], each["large"]["lower"]) == (5, 0)
    assert each["small"]["bonsai"] == pytest.approx(0.12)
    assert synthetic_report.signed_rank_of_problems(each)["lower"] == 1


def test_what_the_claims_notes_say_is_kept_with_the_runs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(synthetic_report, "RESULTS", tmp_path)
    figures = synthetic_report.write(rows(), 1, 30, where={"time": "then"})
    record = json.loads((tmp_path / "tuning_synthetic.json").read_text())
    assert record["environment"] == {"time": "then"}  # of the runs, not of this report
    notes = record["notes"]
    assert notes["pairs"] == 10
    assert {name: one["figure"] for name, one in notes["claims"].items()} == figures
    assert all(one["low"] <= one["figure"] <= one["high"] for one in notes["claims"].values())
    assert set(notes["problems"]) == {"small", "large"}
    assert synthetic_report.kept(30)["cells"] == record["cells"]
    page = (tmp_path / "tuning_synthetic.md").read_text()
    assert "* small: bonsai lower in 5, equal in 0 of 5 pairs, p = 0.0625; medians 0.120 and 0.800" in page


@pytest.mark.parametrize("trials", [30, 50])
def test_what_is_recorded_comes_out_of_the_recorded_runs(trials: int) -> None:
    record = synthetic_report.kept(trials)
    cells = [row for row in record["cells"] if row["trials"] == trials]
    pairs = synthetic_report.paired(cells, trials)
    assert record["notes"]["pairs"] == len(pairs)
    found = synthetic_report.claims(pairs, 10)
    assert {name: one["figure"] for name, one in record["notes"]["claims"].items()} == found
    assert record["notes"]["problems"] == synthetic_report.by_problem(pairs)
