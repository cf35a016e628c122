"""The figures of the tuners on recommenders: problems count alike, and only what this version searched."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "tuning"))

from bench_recommenders import figures

import claims


def tuning(
    model: str, tuner: str, tested: float, changed: int = 0, seed: int = 0, **more: Any
) -> dict[str, Any]:
    about = {"data": "d", "model": model, "parameters": 3, "trials": 8, "epochs": 1, "low": -0.1}
    names = [f"knob{at}" for at in range(changed)]
    return {**about, "tuner": tuner, "seed": seed, "tuned_test": tested, "final_changed": names, **more}


def test_a_problem_counts_once_however_many_seeds_it_has() -> None:
    rows = [
        tuning("a", tuner, value, 2, seed)
        for seed in range(3)
        for tuner, value in (("bo", 0.1), ("tpe", 0.0))
    ]
    rows += [tuning("a", "bonsai", 0.3, 1, seed) for seed in range(3)]
    rows += [tuning("b", "bo", 0.5, 4), tuning("b", "bonsai", 0.4, 0)]
    found = figures(rows)
    assert found["tuning.recommender-quality"] == pytest.approx((0.2 - 0.1) / 2)
    assert found["tuning.recommender-changes"] == pytest.approx((0.5 + 0) / 2)
    assert found["tuning.recommender-real"] == pytest.approx(1 / 4)


def test_what_another_version_searched_does_not_count() -> None:
    rows = [tuning("a", "bo", 0.2, 1), tuning("a", "bonsai", 0.1, 0)]
    other = [tuning("b", "bo", 0.2, 1), tuning("b", "bonsai", 0.9, 1, searched_by="the version before")]
    assert figures(rows + other) == figures(rows)


def test_the_register_has_the_figures_of_the_kept_results() -> None:
    file = claims.REGISTER.with_name("results") / "tuning_recommenders.json"
    kept = json.loads(file.read_text("utf-8"))["cells"]
    stated = {claim.id: claim.figure for claim in claims.read()}
    assert {name: stated[name] for name in figures(kept)} == figures(kept)
