"""The quality benchmark tells how the rows fall on the experts of a sparse model."""

from __future__ import annotations

import sys
from pathlib import Path

import recengine
from recengine.testing import planted_clicks

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "ranking"))

import bench_quality as quality

SIZE = {"hidden_dim": 16, "n_blocks": 1, "expansion": 1}
SHORT = {"epochs": 1}


def test_a_sparse_cell_holds_the_load_of_every_expert() -> None:
    sections = {"model": {**SIZE, "experts": 8, "active": 4}, "training": SHORT}
    run = recengine.fit("tokenmixer_large", planted_clicks(500), settings=sections)
    load = quality.expert_load(run)
    assert set(load) == {"blocks.0.mixed", "blocks.0.reverted"}
    for tokens in load.values():
        assert all(len(experts) == 7 for experts in tokens)
        assert all(sum(experts) == 3 * len(run.split.test) for experts in tokens)
    dense = recengine.fit(
        "tokenmixer_large", planted_clicks(500), settings={"model": SIZE, "training": SHORT}
    )
    assert quality.expert_load(dense) == {}
    other = recengine.fit("lr", planted_clicks(500), settings={"training": SHORT})
    assert quality.expert_load(other) == {}


def test_the_report_has_a_histogram_of_the_loads() -> None:
    cell = {"expert_load": {"blocks.0.mixed": [[0, 10, 20, 10], [40, 0, 0, 0]]}}
    lines = quality._loads({("ml-1m", "sparse"): {0: cell}, ("ml-1m", "dense"): {0: {}}})
    words = [word.strip() for word in lines[-1].split("|")[1:-1]]
    assert " ".join(words) == "ml-1m sparse blocks.0.mixed 1 8 4 0 0 2 1 1 0 0.00 4.00"
    assert lines[-2].count("|") == lines[-1].count("|")
    assert quality._loads({("ml-1m", "dense"): {0: {}}}) == []
