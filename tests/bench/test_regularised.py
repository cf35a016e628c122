"""The restated regularised searches: their closed forms against simulation."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("botorch")

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "tuning"))

from problems import PROBLEMS
from regularised import KINDS, WEIGHT, Regularised, Sparse

from recengine.contracts.tuner import Observation
from recengine.tuning import Parameter, Space
from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.improvement import predictor
from recengine_plugins.bonsai.knowledge import Knowledge

CONFIG = BonsaiConfig(initial=5, restarts=2, raw_samples=16, surrogate="gp")
SPACE = Space(tuple(Parameter(f"x{j}", "float", 0.5, 0.0, 1.0) for j in range(3)))
DEFAULT = torch.full((3,), 0.5, dtype=torch.float64)


def knowledge() -> Knowledge:
    rows = np.random.default_rng(0).random((9, 3))
    rows[2:5, 0] = rows[5:7, 2] = rows[5:7, 1] = 0.5
    points = [SPACE.default, *(SPACE.decode(row) for row in rows)]
    return Knowledge.of(SPACE, [Observation(p, (np.sin(5 * p["x0"]) + p["x1"],)) for p in points], CONFIG)


def test_the_expected_hypervolume_is_that_of_draws() -> None:
    known = knowledge()
    sparse = Sparse("sebo", known, DEFAULT)
    sparse.a = 1e-6
    x = torch.tensor([[0.3, 0.9, 0.5]], dtype=torch.float64)  # two changes
    with torch.no_grad():
        found = float(sparse(x[:, None]).exp())
        mean, deviation = (float(v[0, 0]) / sparse.unit for v in predictor(known.model)(x))
    means, changes = sparse.means[0].numpy(), sparse.sparsity.numpy()
    floor = means.min() - 0.1 * (means.max() - means.min())
    draws = mean + deviation * np.random.default_rng(1).standard_normal(400_000)
    # more changes allowed, the better what is known: from two to three changes, only that strip is gained
    best = max(floor, max(means[changes <= 2]))
    simulated = np.maximum(0.0, draws - best).mean() * 1.0
    assert found == pytest.approx(simulated, rel=0.02)


@pytest.mark.parametrize("kind", ["internal", "external"])
def test_a_change_costs_its_weight(kind: str) -> None:
    """Where the value does not depend on a parameter, changing it is worth less."""
    sparse = Sparse(kind, knowledge(), DEFAULT)
    sparse.a = 1e-3
    with torch.no_grad():
        few, many = sparse(torch.tensor([[[0.3, 0.9, 0.5]], [[0.3, 0.9, 0.51]]], dtype=torch.float64))
    assert float(few) > float(many)
    if kind == "external":
        assert float(few - many) == pytest.approx(WEIGHT, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_lie_in_the_cube_and_near_the_default_means_at_it(kind: str) -> None:
    problem = PROBLEMS["hartmann25"]()
    space = Space(problem.space.parameters[:7])
    rows = np.random.default_rng(0).random((6, 7))
    points = [space.default, *(space.decode(row) for row in rows)]
    history = [Observation(p, (-((p["x0"] - 0.2) ** 2),)) for p in points]
    point = Regularised(kind, CONFIG, space, 0).propose(history, 1)[0]
    space.check(point)
    moved = [abs(point[name] - 0.5) for name in space.changed(point)]
    assert all(step > 0.01 for step in moved)
    with pytest.raises(ValueError, match="real-valued"):
        Regularised(kind, CONFIG, PROBLEMS["mixed20"]().space, 0)
