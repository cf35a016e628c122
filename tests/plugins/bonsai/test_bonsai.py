"""BONSAI: the pruning core on tables by hand, and the policy on planted problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("botorch")

from recengine.contracts.tuner import Observation
from recengine.errors import ConfigError
from recengine.tuning import LinearLimit, Parameter, Space, Study
from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.final import recommend
from recengine_plugins.bonsai.policy import Bonsai, plain_bo
from recengine_plugins.bonsai.revert import revert

GROUPS = [(0,), (1,), (2,)]
ZERO = torch.zeros(3, dtype=torch.float64)
QUICK = BonsaiConfig(initial=5, restarts=2, raw_samples=32, mc_samples=32)


def additive(weights: list[float]) -> Any:
    return lambda X: (X * torch.tensor(weights, dtype=torch.float64)).sum(dim=1)


def test_reversion_by_hand() -> None:
    """Gain 10 = 7 + 2 + 1: rho .1 drops the last, rho .3 the last two; the total never passes rho."""
    x = torch.ones(3, dtype=torch.float64)
    evaluate = additive([7.0, 2.0, 1.0])
    assert revert(evaluate, x, ZERO, GROUPS, base=0.0, rho=0.1).changed == (0, 1)
    assert revert(evaluate, x, ZERO, GROUPS, base=0.0, rho=0.29).changed == (0, 1)
    both = revert(evaluate, x, ZERO, GROUPS, base=0.0, rho=0.3)
    assert both.changed == (0,)
    assert both.gain == 10.0
    # against a baseline of 5 the same reversions cost twice as much, relatively
    assert revert(evaluate, x, ZERO, GROUPS, base=5.0, rho=0.3).changed == (0, 1)


def test_at_least_one_change_remains_and_no_gain_means_no_pruning() -> None:
    x = torch.ones(3, dtype=torch.float64)
    assert len(revert(additive([1.0, 1.0, 1.0]), x, ZERO, GROUPS, base=0.0, rho=1.0).changed) == 1
    assert revert(additive([1.0, 1.0, 1.0]), x, ZERO, GROUPS, base=9.0, rho=1.0).changed == (0, 1, 2)


def test_absolute_tolerance_costs_and_groups() -> None:
    x = torch.ones(3, dtype=torch.float64)
    evaluate = additive([7.0, 2.0, 1.0])
    assert revert(evaluate, x, ZERO, GROUPS, base=0.0, rho=0.0, delta=3.0).changed == (0,)
    together = revert(evaluate, x, ZERO, [(0, 2), (1,)], base=0.0, rho=0.2)
    assert together.changed == (0,)
    # the dear change is put back first, although it is worth more
    dear = revert(evaluate, x, ZERO, GROUPS, base=0.0, rho=0.2, costs=[1.0, 10.0, 1.0])
    assert dear.changed == (0, 2)


@settings(max_examples=60)
@given(st.lists(st.floats(0, 5), min_size=3, max_size=3), st.floats(0, 1))
def test_pruning_never_costs_more_than_the_budget(weights: list[float], rho: float) -> None:
    evaluate = additive(weights)
    x = torch.ones(3, dtype=torch.float64)
    found = revert(evaluate, x, ZERO, GROUPS, base=0.0, rho=rho)
    assert float(evaluate(found.x[None])[0]) >= sum(weights) * (1 - rho) - 1e-9


def space(d: int, **changes: Any) -> Space:
    return Space(tuple(Parameter(f"x{j}", "float", 0.5, 0.0, 1.0) for j in range(d)), **changes)


def peak(point: dict[str, Any], seed: int) -> float:
    """Only x0 and x1 matter; the best is at (.8, .3)."""
    return -((point["x0"] - 0.8) ** 2) - (point["x1"] - 0.3) ** 2


def study(tmp_path: Path, tuner: Any, where: Space) -> Study:
    return Study.open(tmp_path / "s.db", "s", where, tuner)


def test_finds_the_peak_with_few_changes(tmp_path: Path) -> None:
    where = space(5)
    made = study(tmp_path, Bonsai(QUICK.model_copy(update={"dense_every": 0}), where, 0), where)
    made.run(peak, 14)
    best = made.best()
    assert best.values is not None
    assert best.values[0] > -0.01
    pruned = [t for t in made.done() if t.facts.get("origin") == "pruned"]
    assert pruned
    assert np.mean([len(where.changed(t.parameters)) for t in pruned]) < 4.5
    assert all(t.facts["changed"] <= t.facts["changed_dense"] for t in pruned)


def test_same_seed_same_proposals(tmp_path: Path) -> None:
    where = space(3)
    history = [Observation(where.default, (peak(where.default, 0),))]
    for point in Bonsai(QUICK, where, 1)._sobol(1), Bonsai(QUICK, where, 1)._sobol(2):
        history.append(Observation(point, (peak(point, 0),)))
    config = QUICK.model_copy(update={"initial": 2})
    first = Bonsai(config, where, 1).propose(history, 2)
    again = Bonsai(config, where, 1).propose(history, 2)
    assert first == again
    assert first[0] != first[1]


def test_irrelevant_dimensions_are_all_reverted_at_no_tolerance() -> None:
    """With an acquisition that does not depend on a coordinate, rho = 0 removes it (exactly)."""
    evaluate = additive([3.0, 0.0, 0.0])
    x = torch.tensor([0.3, 0.9, 0.1], dtype=torch.float64)
    assert revert(evaluate, x, ZERO, GROUPS, base=0.0, rho=0.0).changed == (0,)


def test_limits_hold_for_every_proposal(tmp_path: Path) -> None:
    where = Space(
        tuple(Parameter(f"x{j}", "float", 0.3, 0.0, 1.0) for j in range(3)),
        (LinearLimit((("x0", 1.0), ("x1", 1.0)), 0.9),),
    )
    made = study(tmp_path, Bonsai(QUICK, where, 0), where)
    made.run(peak, 9)
    assert all(t.parameters["x0"] + t.parameters["x1"] <= 0.9 + 1e-6 for t in made.trials())


def test_mixed_spaces_give_real_values(tmp_path: Path) -> None:
    where = Space(
        (
            Parameter("rate", "float", 1e-3, 1e-4, 1e-1, log=True),
            Parameter("layers", "int", 2, 1, 6),
            Parameter("loss", "choice", "a", choices=("a", "b", "c")),
            Parameter("tied", "choice", True, choices=(False, True)),
        )
    )

    def worth(point: dict[str, Any], seed: int) -> float:
        return float(point["loss"] == "c") - abs(point["layers"] - 4) - abs(np.log10(point["rate"]) + 2)

    made = study(tmp_path, Bonsai(QUICK, where, 0), where)
    made.run(worth, 12)
    for trial in made.trials():
        where.check(trial.parameters)


def test_feasibility_comes_first() -> None:
    where = space(2)
    history = [
        Observation({"x0": a, "x1": b}, (), feasible=False)
        for a, b in [(0.1, 0.1), (0.2, 0.1), (0.1, 0.3), (0.3, 0.3), (0.2, 0.2), (0.5, 0.5)]
    ]
    history = [Observation(h.parameters, (0.0,), feasible=False) for h in history]
    proposal = Bonsai(QUICK, where, 0).propose(history, 1)[0]
    assert proposal["__facts__"]["origin"] == "feasibility"
    assert max(abs(proposal["x0"] - 0.2), abs(proposal["x1"] - 0.2)) > 0.2


def test_two_objectives(tmp_path: Path) -> None:
    where = space(2)
    tuner = Bonsai(QUICK.model_copy(update={"acquisition": "qlognehvi"}), where, 0)
    made = Study.open(tmp_path / "s.db", "s", where, tuner, objectives=("a", "b"))
    made.run(lambda point, seed: (point["x0"], -point["x0"] - point["x1"] ** 2), 7)
    assert len(made.done()) == 7


def test_final_recommendation_is_sparser_and_as_good(tmp_path: Path) -> None:
    where = space(4)
    made = study(tmp_path, plain_bo(QUICK, where, 0), where)
    made.run(peak, 16)
    history = [Observation(t.parameters, t.values or (), t.feasible) for t in made.done()]
    found = recommend(where, history, QUICK, delta=0.01)
    assert len(where.changed(found.recommended)) <= len(where.changed(found.incumbent))
    assert peak(found.recommended, 0) > peak(found.incumbent, 0) - 0.03
    assert [point.changed for point in found.frontier] == sorted(point.changed for point in found.frontier)
    assert {row.name for row in found.reversions} == set(where.changed(found.recommended))


def test_a_logarithmic_limit_is_refused() -> None:
    where = Space(
        (Parameter("rate", "float", 1e-3, 1e-4, 1e-1, log=True),), (LinearLimit((("rate", 1.0),), 0.05),)
    )
    with pytest.raises(ConfigError, match="logarithmic"):
        Bonsai(QUICK, where, 0)
