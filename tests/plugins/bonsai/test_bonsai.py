"""BONSAI: the pruning core on tables by hand, and the policy on planted problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("botorch")

from recengine.contracts.tuner import Observation
from recengine.errors import ConfigError, UsageError
from recengine.tuning import LinearLimit, Parameter, Space, Study
from recengine_plugins.bonsai.acquisition import build
from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.dense import dense_step, refine, within_reach
from recengine_plugins.bonsai.final import recommend
from recengine_plugins.bonsai.knowledge import Knowledge
from recengine_plugins.bonsai.policy import Bonsai, plain_bo
from recengine_plugins.bonsai.revert import Reverted, revert

GROUPS = [(0,), (1,), (2,)]
ZERO = torch.zeros(3, dtype=torch.float64)
QUICK = BonsaiConfig(initial=5, restarts=2, raw_samples=32, mc_samples=32)


def additive(weights: list[float]) -> Any:
    return lambda X: (X * torch.tensor(weights, dtype=torch.float64)).sum(dim=1)


def one(evaluate: Any, x: torch.Tensor, groups: Any = GROUPS, **told: Any) -> Reverted:
    return revert(evaluate, x[None], ZERO, groups, **told)[0]


def test_reversion_by_hand() -> None:
    """Gain 10 = 7 + 2 + 1: rho .1 drops the last, rho .3 the last two; the total never passes rho."""
    x = torch.ones(3, dtype=torch.float64)
    evaluate = additive([7.0, 2.0, 1.0])
    assert one(evaluate, x, base=0.0, rho=0.1).changed == (0, 1)
    assert one(evaluate, x, base=0.0, rho=0.29).changed == (0, 1)
    both = one(evaluate, x, base=0.0, rho=0.3)
    assert both.changed == (0,)
    assert both.gain == 10.0
    # against a baseline of 5 the same reversions cost twice as much, relatively
    assert one(evaluate, x, base=5.0, rho=0.3).changed == (0, 1)


def test_at_least_one_change_remains_and_without_gain_only_what_is_free_goes_back() -> None:
    x = torch.ones(3, dtype=torch.float64)
    assert len(one(additive([1.0, 1.0, 1.0]), x, base=0.0, rho=1.0).changed) == 1
    assert one(additive([1.0, 1.0, 1.0]), x, base=9.0, rho=1.0).changed == (0, 1, 2)
    assert one(additive([1.0, 0.0, 0.0]), x, base=9.0, rho=1.0).changed == (0,)
    assert one(additive([-1.0, 0.0, -0.5]), x, base=9.0, rho=0.0, keep=0).changed == ()
    assert one(additive([1.0, 1.0, 1.0]), x, base=0.0, rho=1.0, keep=0).changed == ()


def test_absolute_tolerance_costs_and_groups() -> None:
    x = torch.ones(3, dtype=torch.float64)
    evaluate = additive([7.0, 2.0, 1.0])
    assert one(evaluate, x, base=0.0, rho=0.0, delta=3.0).changed == (0,)
    # an absolute tolerance larger than the gain costs at most nine tenths of it
    assert one(additive([5.0, 4.0, 1.0]), x, base=0.0, rho=0.0, delta=99.0).changed == (0,)
    assert one(additive([4.0, 4.0, 2.0]), x, base=0.0, rho=0.0, delta=99.0, keep=0).changed in ((0,), (1,))
    assert one(additive([4.0, 4.0, 2.0]), x, base=0.0, rho=0.0, delta=5.0).changed == (0, 1)
    many = torch.ones(20, dtype=torch.float64)
    found = revert(
        additive([1.0] * 20),
        many[None],
        torch.zeros(20, dtype=torch.float64),
        [(j,) for j in range(20)],
        base=0.0,
        rho=0.0,
        delta=99.0,
        keep=0,
    )[0]
    assert len(found.changed) == 2
    together = one(evaluate, x, [(0, 2), (1,)], base=0.0, rho=0.2)
    assert together.changed == (0,)
    # the dear change is put back first, although it is worth more
    dear = one(evaluate, x, base=0.0, rho=0.2, costs=[1.0, 10.0, 1.0])
    assert dear.changed == (0, 2)


def test_a_dear_change_that_pays_does_not_shield_the_others() -> None:
    """Loss per cost is least for the dear one, which is worth too much; the cheap ones still go."""
    x = torch.ones(3, dtype=torch.float64)
    found = one(additive([7.0, 2.0, 1.0]), x, base=0.0, rho=0.3, costs=[100.0, 1.0, 1.0])
    assert found.changed == (0,)


def greedy(evaluate: Any, x: torch.Tensor, base: float, rho: float) -> tuple[int, ...]:
    """The plain rule: one reversion a round, always the cheapest, while the loss allows it."""
    gain = max(0.0, float(evaluate(x[None])[0]) - base)
    away = [j for j in range(len(x)) if float(x[j])]
    while len(away) > 1 and gain:
        trials = x.repeat(len(away), 1)
        trials[range(len(away)), away] = 0.0
        losses = [(gain - max(0.0, float(v) - base)) / gain for v in evaluate(trials)]
        at = min(range(len(away)), key=lambda i: losses[i])
        if losses[at] > rho:
            break
        x = trials[at]
        del away[at]
    return tuple(away)


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 50), min_size=3, max_size=3, unique=True),
    st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]),
    st.sampled_from([0.0, 3.0]),
)
def test_prefixes_decide_as_the_plain_rule_does(weights: list[int], rho: float, base: float) -> None:
    """Where losses add up, rounds of prefixes end at the same set as one reversion a round (without any gain
    another rule holds)."""
    assume(sum(weights) > base)
    evaluate = additive([float(w) for w in weights])
    x = torch.ones(3, dtype=torch.float64)
    assert one(evaluate, x, base=base, rho=rho).changed == greedy(evaluate, x, base, rho)


def test_many_reversions_need_few_calls() -> None:
    calls = 0
    weights = torch.tensor([10.0] + [1e-4] * 49, dtype=torch.float64)

    def evaluate(X: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return (X * weights).sum(dim=1)

    zero = torch.zeros(50, dtype=torch.float64)
    starts = torch.ones(3, 50, dtype=torch.float64)
    found = revert(evaluate, starts, zero, [(j,) for j in range(50)], base=0.0, rho=0.2)
    assert [result.changed for result in found] == [(0,)] * 3
    assert calls <= 6


def test_starts_share_the_gain_of_the_best() -> None:
    """A start that lies below the tolerance to begin with is left as it is and not admissible."""
    starts = torch.tensor([[1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [1.0, 1.0, 0.0]], dtype=torch.float64)
    best, poor, good = revert(additive([7.0, 2.0, 1.0]), starts, ZERO, GROUPS, base=0.0, rho=0.2)
    assert best.gain == poor.gain == good.gain == 10.0
    assert (best.admissible, poor.admissible, good.admissible) == (True, False, True)
    assert (best.changed, poor.changed, good.changed) == ((0, 1), (0, 1, 2), (0, 1))


@settings(max_examples=60)
@given(st.lists(st.floats(0, 5), min_size=3, max_size=3), st.floats(0, 1))
def test_pruning_never_costs_more_than_the_budget(weights: list[float], rho: float) -> None:
    evaluate = additive(weights)
    x = torch.ones(3, dtype=torch.float64)
    found = one(evaluate, x, base=0.0, rho=rho)
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
    assert all(0 <= loss <= 1.5 for t in pruned for loss in t.facts["losses"].values())
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
    assert one(evaluate, x, base=0.0, rho=0.0).changed == (0,)


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


@pytest.mark.slow  # botorch compiles a kernel of its own when it first sees this acquisition
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


# --- the paths that only some studies take ---------------------------------------------------------


def history_of(where: Space, worth: Any, n: int, seed: int = 0) -> list[Observation]:
    """The default and a design, measured."""
    design = Bonsai(BonsaiConfig(), where, seed)
    points = [where.default, *(design._sobol(at) for at in range(1, n))]
    return [Observation(point, (worth(point, 0),)) for point in points]


@pytest.mark.parametrize("surrogate", ["gp", "map_saas"])
@pytest.mark.parametrize("acquisition", ["log_ei", "qlognei", "ucb"])
@pytest.mark.parametrize("explore", ["sparse", "dense"])
def test_every_surrogate_with_every_acquisition(surrogate: Any, acquisition: Any, explore: Any) -> None:
    where = space(12)
    config = QUICK.model_copy(update={"surrogate": surrogate, "acquisition": acquisition, "explore": explore})
    history = history_of(where, peak, 8)
    batch = Bonsai(config, where, 0).propose(history, 4)  # trials 8, 9, 10: pruned; 11: exploring
    points = [where.encode({k: v for k, v in p.items() if k != "__facts__"}) for p in batch]
    origins = [point["__facts__"]["origin"] for point in batch]
    assert origins[:3] == ["pruned"] * 3
    assert origins[3] in (("dense",) if explore == "dense" else ("incumbent", "pruned"))
    assert len({tuple(point) for point in points}) == 4
    changed = [len(where.changed(where.decode(point))) for point in points]
    assert max(changed[: 3 if explore == "dense" else 4]) < 12


def test_refining_never_costs_more_than_the_tolerance() -> None:
    """After a second local search and a second pruning at least (1 - rho) of the dense gain is left."""
    where = space(12)
    history = history_of(where, peak, 8)
    gains = {}
    for again in (False, True):
        tuner = Bonsai(QUICK.model_copy(update={"refine": again, "delta_share": 0.0}), where, 0)
        known = Knowledge.of(where, history, tuner.config)
        built = build(tuner.config, known.model, known.X, known.Y, None, known.feasibility, 0)
        box = within_reach(where, tuner.default[None], 1.0)
        dense = dense_step(built, where, tuner.limits, tuner.config, tuner.default[None], box, 0)
        found = tuner._prune(built, dense, box, known, None, 8)
        assert found.value - (1 - 0.2) * found.gain / float(built.natural(dense[:1])[0]) >= -1e-6
        gains[again] = found
    assert len(gains[True].changed) <= len(gains[False].changed) + 1


def test_infeasible_outcomes_make_a_bound_less_attractive() -> None:
    """UCB has a sign: weighting by feasibility must never raise the value of what is likely infeasible."""
    from recengine_plugins.bonsai.surrogate import Feasibility, fit_surrogate

    X = torch.rand(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    Y = -5.0 - (X**2).sum(dim=1, keepdim=True)
    feasible = X[:, 0] < 0.5
    model = fit_surrogate(X[feasible], Y[feasible], "gp", 1, 0)
    config = QUICK.model_copy(update={"acquisition": "ucb"})
    told = (config, model, X[feasible], Y[feasible], None)
    plain = build(*told, Feasibility(X[feasible], feasible[feasible]), 0)
    weighted = build(*told, Feasibility(X, feasible), 0)
    grid = torch.rand(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert bool((weighted.plain(grid) <= plain.plain(grid) + 1e-9).all())


def test_pruning_still_works_where_improvement_underflows() -> None:
    """Two tiny log acquisitions, e^-900 apart from zero: their ratio decides, not their floats."""
    from recengine_plugins.bonsai.acquisition import Acquisition

    def tiny(X: torch.Tensor) -> torch.Tensor:
        return -900.0 + torch.log((X.squeeze(-2) * torch.tensor([7.0, 2.0, 1.0])).sum(-1) + 1e-300)

    acquisition = Acquisition(tiny, True, None)
    x = torch.ones(3, dtype=torch.float64)
    unit = float(acquisition.plain(x[None])[0])
    found = one(lambda X: acquisition.natural(X, unit), x, base=0.0, rho=0.31)
    assert found.changed == (0,)
    assert float(acquisition.natural(x[None])[0]) == 0.0


def test_members_of_a_design_under_limits_differ() -> None:
    where = Space(
        tuple(Parameter(f"x{j}", "float", 0.1, 0.0, 1.0) for j in range(3)),
        (LinearLimit((("x0", 1.0), ("x1", 1.0), ("x2", 1.0)), 0.6),),
    )
    points = Bonsai(QUICK.model_copy(update={"initial": 20}), where, 0).propose([], 12)
    assert len({tuple(where.encode({k: p[k] for k in where.names})) for p in points}) == 12
    assert all(where.allows({k: p[k] for k in where.names}) for p in points)


def test_integers_within_limits_stay_within_them() -> None:
    where = Space(
        (
            Parameter("n", "int", 1, 0, 9),
            Parameter("m", "int", 1, 0, 9),
            Parameter("x", "float", 0.1, 0.0, 4.0),
            Parameter("k", "choice", "a", choices=("a", "b", "c")),
        ),
        (LinearLimit((("n", 1.0), ("m", 1.0), ("x", 1.0)), 7.5),),
    )

    def worth(point: dict[str, Any], seed: int) -> float:
        return float(point["n"] + point["m"] + 0.5 * point["x"] + (point["k"] == "b"))

    history = history_of(where, worth, 6)
    tuner = Bonsai(QUICK, where, 0)
    for _ in range(6):
        point = {k: v for k, v in tuner.propose(history, 1)[0].items() if k != "__facts__"}
        where.check(point)
        assert where.allows(point)
        history.append(Observation(point, (worth(point, 0),)))
    assert max(seen.values[0] for seen in history) >= 7.5  # two integers at the limit, the better choice


def test_projection_holds_pinned_coordinates_and_integers() -> None:
    from recengine_plugins.bonsai.limits import Limits

    where = Space(
        (
            Parameter("a", "float", 0.5, 0.0, 1.0),
            Parameter("b", "float", 0.2, 0.0, 1.0),
            Parameter("c", "float", 0.2, 0.0, 1.0),
            Parameter("n", "int", 0, 0, 4),
        ),
        (LinearLimit((("a", 1.0), ("b", 1.0), ("c", 1.0), ("n", 0.25)), 1.0),),
    )
    x = torch.tensor([0.0, 0.2, 0.5, 0.25], dtype=torch.float64)  # n = 1
    pinned = Limits(where).pin(torch.tensor([0.5, 0.2, 0.5, 0.25], dtype=torch.float64), 0, frozenset({1}))
    assert pinned is not None
    # a and b at their default, n as it was, c gives way: .5 + .2 + c + .25 = 1
    assert pinned.tolist() == pytest.approx([0.5, 0.2, 0.05, 0.25], abs=1e-6)
    assert Limits(where).pin(x, 0, frozenset()) is not None
    full = torch.tensor([0.5, 0.2, 0.2, 1.0], dtype=torch.float64)
    assert Limits(where).pin(full, 0, frozenset({1, 2})) is None


def test_what_no_longer_matters_goes_back_with_its_parent() -> None:
    where = Space(
        (
            Parameter("loss", "choice", "plain", choices=("plain", "scaled")),
            Parameter("scale", "float", 1.0, 0.0, 4.0, when=(("loss", ("scaled",)),)),
            Parameter("rate", "float", 0.5, 0.0, 1.0),
        )
    )
    tuner = Bonsai(QUICK, where, 0)
    x = torch.as_tensor(where.encode({"loss": "scaled", "scale": 3.0, "rate": 0.9}))
    x[0] = tuner.default[0]
    back = tuner._pin(x, 0, frozenset())
    assert back is not None
    assert where.decode(back.numpy()) == {"loss": "plain", "scale": 1.0, "rate": 0.9}


def test_values_that_are_not_finite_count_as_infeasible() -> None:
    where = space(2)
    history = history_of(where, peak, 6)
    bad = Observation({"x0": 0.9, "x1": 0.9}, (float("nan"),))
    point = Bonsai(QUICK, where, 0).propose([*history, bad, bad], 1)[0]
    assert point["__facts__"]["origin"] in ("pruned", "dense")
    only = [Observation(h.parameters, (float("inf"),)) for h in history]
    assert Bonsai(QUICK, where, 0).propose(only, 1)[0]["__facts__"]["origin"] == "design"


def test_final_recommendation_drops_what_does_nothing(tmp_path: Path) -> None:
    """Twelve parameters, two matter: the incumbent of a dense search is pruned down to about those."""
    where = space(12)
    made = study(tmp_path, plain_bo(QUICK, where, 0), where)
    made.run(peak, 20)
    history = [Observation(t.parameters, t.values or (), t.feasible) for t in made.done()]
    found = Bonsai(QUICK, where, 0).conclude(history)
    gained = peak(found.incumbent, 0) - peak(where.default, 0)
    assert set(where.changed(found.recommended)) <= set(where.changed(found.incumbent))
    assert len(where.changed(found.recommended)) <= 4
    assert peak(found.recommended, 0) >= peak(where.default, 0) + 0.8 * gained


def test_final_recommendation_keeps_limits_and_conditions() -> None:
    where = Space(
        tuple(Parameter(f"x{j}", "float", 0.4, 0.0, 1.0) for j in range(3)),
        (LinearLimit((("x0", 1.0), ("x1", 1.0)), 0.8),),
    )

    def worth(point: dict[str, Any], seed: int) -> float:
        return -((point["x0"] - 0.7) ** 2) - 0.01 * (point["x1"] - 0.1) ** 2

    history = history_of(where, worth, 9)
    history.append(Observation({"x0": 0.7, "x1": 0.1, "x2": 0.9}, (0.0,)))
    found = recommend(where, history, QUICK, delta=0.02)
    assert where.allows(found.recommended)
    assert all(where.allows(point.parameters) for point in found.frontier)
    assert "x2" not in where.changed(found.recommended)
    assert "x0" in where.changed(found.recommended)


def test_one_objective_of_several_is_concluded() -> None:
    where = space(3)
    history = [
        Observation(h.parameters, (h.values[0], -h.parameters["x2"])) for h in history_of(where, peak, 8)
    ]
    found = Bonsai(QUICK, where, 0).conclude(history)
    assert found.incumbent == max(history, key=lambda h: h.values[0]).parameters


def test_the_tolerance_schedule_tightens() -> None:
    """no_regret: rho_t = rho / sqrt(t), so that late proposals keep more of what pays a little."""
    where = space(8)
    seen: list[float] = []
    tuner = Bonsai(QUICK.model_copy(update={"schedule": "no_regret", "dense_every": 0}), where, 0)

    import recengine_plugins.bonsai.policy as policy

    kept = policy.revert

    def spy(*args: Any, **told: Any) -> Any:
        seen.append(told["rho"])
        return kept(*args, **told)

    history = history_of(where, peak, 8)
    policy.revert = spy
    try:
        tuner.propose(history, 1)
        tuner.propose([*history, *history[1:6]], 1)
    finally:
        policy.revert = kept
    assert sorted(set(seen), reverse=True) == pytest.approx([0.2 / 4**0.5, 0.2 / 9**0.5])


def test_rho_zero_keeps_every_proposal_within_the_relevant_set() -> None:
    """The theory with known lengthscales: an acquisition that does not depend on a coordinate changes
    nothing there, whatever the optimiser's starts were (arXiv 2602.07144)."""
    where, relevant = space(12), ("x0", "x1")
    config = QUICK.model_copy(update={"rho": 0.0, "delta_share": 0.0, "dense_every": 0, "surrogate": "gp"})
    tuner = Bonsai(config, where, 0)
    history, dense = history_of(where, peak, 8), []
    for _ in range(5):
        known = Knowledge.of(where, history, config)
        lengthscale = known.model.covar_module.lengthscale.detach().clone()
        lengthscale[..., 2:] = 1e12
        known.model.covar_module.lengthscale = lengthscale
        point, facts = tuner._model_based(known, [], 0, len(history))
        assert set(where.changed(point)) <= set(relevant)
        dense.append(facts["changed_dense"])
        history.append(Observation(point, (peak(point, 0),)))
    assert max(dense) > 2  # the pruning had something to do
    assert max(h.values[0] for h in history) > -0.05


def test_short_steps_and_limits_go_together() -> None:
    """A point that the limits moved out of reach is still refined, and steps stay within reach otherwise."""
    tight = LinearLimit(tuple((f"x{j}", 1.0) for j in range(6)), 2.4)
    where = Space(tuple(Parameter(f"x{j}", "float", 0.4, 0.0, 1.0) for j in range(6)), (tight,))
    config = QUICK.model_copy(update={"reach": 0.1, "dense_every": 0})
    tuner = Bonsai(config, where, 0)
    known = Knowledge.of(where, history_of(where, peak, 8), config)
    built = build(config, known.model, known.X, known.Y, None, known.feasibility, 0)
    box = within_reach(where, tuner.default[None], 0.1)
    outside = tuner.limits.admit(
        torch.full((6,), 0.4, dtype=torch.float64).index_fill(0, torch.tensor([0]), 0.0)
    )
    before = float(built.plain(outside[None])[0])
    refined = refine(built, where, tuner.limits, outside, range(6), box)
    assert float(built.plain(refined[None])[0]) >= before
    dense = dense_step(built, where, tuner.limits, config, tuner.default[None], box, 0)
    assert float((dense - 0.4).abs().max()) <= 0.1 + 1e-6


@pytest.mark.parametrize("surrogate", ["gp", "map_saas"])
@pytest.mark.parametrize("size", [1e308, 1e200, 1e-310])
def test_values_of_any_finite_size_are_searched(surrogate: Any, size: float) -> None:
    where = space(2)

    def worth(point: dict[str, Any], seed: int) -> float:
        return size * (1.0 if point["x0"] > 0.5 else -1.0)

    config = QUICK.model_copy(update={"surrogate": surrogate, "dense_every": 0})
    tuner, history = Bonsai(config, where, 0), history_of(where, worth, 6)
    assert {seen.values[0] for seen in history} == {size, -size}
    assert tuner.propose(history, 1)[0]["__facts__"]["origin"] in ("pruned", "polished", "widened")
    found = tuner.conclude(history)
    assert worth(found.incumbent, 0) == size
    assert found.frontier[-1].observed == size
    assert 0.3 * size < abs(found.frontier[-1].mean) <= 3 * size or size > 1e307


def test_ordinary_values_are_not_scaled_and_one_hopeless_value_does_not_set_the_scale() -> None:
    where = space(2)
    history = history_of(where, peak, 6)
    assert Knowledge.of(where, history, QUICK).unit.tolist() == [1.0]
    lost = [*history, Observation({"x0": 0.1, "x1": 0.1}, (-1e200,))]
    known = Knowledge.of(where, lost, QUICK)
    assert known.unit.tolist() == [1.0]
    assert float(known.Y[:-1].min()) > -2.0


def test_where_arithmetic_fails_the_proposal_is_a_sobol_point_with_a_reason(
    monkeypatch: Any, caplog: Any
) -> None:
    import recengine_plugins.bonsai.policy as policy

    def broken(*told: Any, **more: Any) -> Any:
        raise RuntimeError("probability tensor contains inf")

    where = space(2)
    history = history_of(where, peak, 6)
    tuner = Bonsai(QUICK, where, 0)
    monkeypatch.setattr(policy, "dense_step", broken)
    facts = tuner.propose(history, 1)[0]["__facts__"]
    assert facts["origin"] == "sobol"
    assert "contains inf" in facts["reason"]
    assert "contains inf" in caplog.text
    monkeypatch.setattr(Knowledge, "of", broken)
    assert tuner.propose(history, 1)[0]["__facts__"]["origin"] == "sobol"
    with pytest.raises(UsageError, match=r"(?s)no model could be fitted.*contains inf"):
        tuner.conclude(history)


@pytest.mark.slow  # botorch compiles a kernel of its own when it first sees this acquisition
def test_a_share_of_one_objective_is_no_tolerance_for_a_hypervolume(monkeypatch: Any) -> None:
    """What the first objective gained (here thousands) is in other units than what is pruned by."""
    import recengine_plugins.bonsai.policy as policy

    where = space(4)
    points = [seen.parameters for seen in history_of(where, peak, 8)]
    history = [Observation(p, (1000 * peak(dict(p), 0), -((p["x2"] - 0.9) ** 2))) for p in points]
    config = QUICK.model_copy(update={"initial": 4, "acquisition": "qlognehvi", "dense_every": 0})
    kept, deltas = policy.revert, []

    def spy(*told: Any, **more: Any) -> Any:
        deltas.append(more["delta"])
        return kept(*told, **more)

    monkeypatch.setattr(policy, "revert", spy)
    Bonsai(config, where, 0).propose(history, 1)
    assert deltas
    assert set(deltas) == {0.0}
    deltas.clear()
    first = [Observation(seen.parameters, seen.values[:1]) for seen in history]
    Bonsai(config, where, 0).propose(first, 1)
    assert min(deltas) > 0  # of one objective it is


def test_a_term_that_a_limit_repeats_counts_twice() -> None:
    from recengine_plugins.bonsai.limits import Limits

    where = space(1, limits=(LinearLimit((("x0", 1.0), ("x0", 1.0)), 1.4),))
    limits = Limits(where)
    assert limits.A.tolist() == [[2.0]]
    assert not limits.holds(torch.tensor([0.9], dtype=torch.float64))
    assert limits.holds(torch.tensor([0.7], dtype=torch.float64))


def test_no_regret_searches_the_whole_space_and_spends_no_trial_on_sparser_points(monkeypatch: Any) -> None:
    """A hill far from the default and from the best point known is within its reach."""
    import recengine_plugins.bonsai.policy as policy

    where, boxes, tried = space(2), [], []
    kept = policy.within_reach

    def spy(*told: Any) -> torch.Tensor:
        boxes.append(kept(*told))
        return boxes[-1]

    def incumbent(self: Bonsai, known: Knowledge) -> None:
        tried.append(len(known.X))

    monkeypatch.setattr(policy, "within_reach", spy)
    monkeypatch.setattr(Bonsai, "_sparser_incumbent", incumbent)
    history = history_of(where, peak, 7)  # the eighth trial explores
    Bonsai(QUICK, where, 0).propose(history, 1)
    assert tried == [7]
    assert float((boxes[0][1] - boxes[0][0]).min()) < 1.0
    Bonsai(QUICK.model_copy(update={"schedule": "no_regret"}), where, 0).propose(history, 1)
    assert tried == [7]
    assert boxes[1].tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_the_gain_of_a_later_member_is_measured_against_the_pruned_one_before_it(monkeypatch: Any) -> None:
    """q = 2: the first one's baseline is the best observed point, the second one's is the first as proposed,
    under the acquisition that is conditioned on it."""
    import recengine_plugins.bonsai.policy as policy

    where = space(3)
    history = history_of(where, peak, 6)
    observed = torch.stack([torch.as_tensor(where.encode(seen.parameters)) for seen in history])
    kept, calls = policy.revert, []

    def spy(evaluate: Any, **told: Any) -> Any:
        calls.append((evaluate, told["base"]))
        return kept(evaluate, **told)

    monkeypatch.setattr(policy, "revert", spy)
    config = QUICK.model_copy(update={"dense_every": 0, "refine": False})
    batch = Bonsai(config, where, 0).propose(history, 2)
    first, second = (torch.as_tensor(where.encode({n: p[n] for n in where.names})) for p in batch)
    assert len(calls) == 2
    (evaluate, base), (conditioned, later) = calls
    assert base == float(evaluate(observed).max())
    assert later == float(conditioned(first[None])[0])
    assert later != float(conditioned(observed).max())
    assert float(evaluate(first[None])[0]) > base  # before it was pending, it had something to gain
    assert float(conditioned(first[None])[0]) < float(conditioned(second[None])[0])


def test_a_design_that_repeats_the_default_of_a_small_space_ends_all_the_same() -> None:
    """Two choices: some seed's first Sobol point is the default, which is no repeat that was asked for."""
    where = Space(tuple(Parameter(name, "choice", "p", choices=("p", "q")) for name in "ab"))
    config = QUICK.model_copy(update={"initial": 3})
    seed = next(s for s in range(50) if not where.changed(Bonsai(config, where, s)._sobol(1)))
    tuner, history = Bonsai(config, where, seed), [Observation(where.default, (0.0,))]
    for _ in range(4):
        point = tuner.propose(history, 1)[0]
        facts = point.pop("__facts__")
        history.append(Observation(point, (float(point["a"] == "q"),)))
    assert facts["origin"] != "design"
