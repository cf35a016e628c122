"""What BONSAI proposes where the model sees nothing left to gain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("botorch")

from recengine.contracts.tuner import Observation
from recengine.tuning import LinearLimit, Parameter, Space
from recengine_plugins.bonsai.beyond import AT_ONCE, widened
from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.knowledge import Knowledge
from recengine_plugins.bonsai.policy import Bonsai

QUICK = BonsaiConfig(initial=5, restarts=2, raw_samples=32, surrogate="gp")
STALLED = QUICK.model_copy(update={"negligible": 1e9})  # any gain counts as none


def space(d: int = 9) -> Space:
    numbers = [Parameter(f"x{j}", "float", 0.5, 0.0, 1.0) for j in range(d - 2)]
    return Space(
        (*numbers, Parameter("n", "int", 3, 0, 9), Parameter("c", "choice", "a", choices=("a", "b")))
    )


def measured(where: Space, *changes: dict[str, Any]) -> list[Observation]:
    """The default and what differs from it by ``changes``; only x0 and x1 matter, the best is at (.8, .3)."""
    points = [where.default, *({**where.default, **change} for change in changes)]
    return [Observation(p, (-((p["x0"] - 0.8) ** 2) - (p["x1"] - 0.3) ** 2,)) for p in points]


def history(where: Space) -> list[Observation]:
    return measured(
        where, {"x0": 0.7}, {"x1": 0.2, "x2": 0.9}, {"x3": 0.1, "n": 5}, {"x0": 0.75, "x1": 0.35}, {"c": "b"}
    )


def proposed(
    config: BonsaiConfig, where: Space, seen: list[Observation]
) -> tuple[dict[str, Any], dict[str, Any]]:
    point = Bonsai(config, where, 0).propose(seen, 1)[0]
    return point, point.pop("__facts__")


def test_what_the_best_point_changes_is_placed_anew_and_nothing_else_changes() -> None:
    where = space()
    point, facts = proposed(STALLED, where, history(where))  # the seventh trial: none that explores
    assert facts["origin"] == "polished"
    assert set(where.changed(point)) == {"x0", "x1"}
    assert (point["x0"], point["x1"]) != (0.75, 0.35)
    assert facts["changed"] == 2


def test_the_time_to_explore_moves_idle_parameters_of_the_best_point() -> None:
    where = space()
    seen = history(where)
    seen += measured(where, {"x0": 0.6, "x1": 0.4})[1:]
    point, facts = proposed(STALLED, where, seen)  # the eighth
    assert facts["origin"] == "widened"
    assert (point["x0"], point["x1"]) == (0.75, 0.35)
    moved = set(where.changed(point)) - {"x0", "x1"}
    assert len(moved) == AT_ONCE
    assert moved == {"x4", "x5", "x6"}  # never moved before


def test_a_gain_that_counts_is_left_to_the_pruned_proposal() -> None:
    where = space()
    for config in (QUICK, STALLED.model_copy(update={"schedule": "no_regret"})):
        _, facts = proposed(config, where, history(where))
        assert facts["origin"] == "pruned"


def test_a_place_that_was_measured_is_not_proposed_again() -> None:
    """Where the best point changes choices alone there is nothing to place anew."""
    kinds = [Parameter(f"c{j}", "choice", "a", choices=("a", "b")) for j in range(8)]
    where = Space(tuple(kinds))
    points = [where.default, *({**where.default, f"c{j}": "b"} for j in range(4))]
    points += [{**where.default, "c0": "b", "c1": "b"}]
    seen = [Observation(p, (float(p["c0"] == "b") + 0.5 * (p["c1"] == "b"),)) for p in points]
    point, facts = proposed(STALLED, where, seen)
    assert facts["origin"] == "widened"
    assert set(where.changed(point)) > {"c0", "c1"}


def test_all_parameters_get_their_turn() -> None:
    where = space()
    seen = history(where)
    best = torch.as_tensor(where.encode({**where.default, "x0": 0.75, "x1": 0.35}))
    tuner, moved = Bonsai(QUICK, where, 0), set()
    for at in range(3):
        known = Knowledge.of(where, seen, QUICK)
        point = where.decode(widened(where, tuner.limits, known, best, (0, at)).numpy())
        moved |= set(where.changed(point)) - {"x0", "x1"}
        seen += measured(where, {name: point[name] for name in where.changed(point)})[1:]
    assert moved == set(where.names) - {"x0", "x1"}


def test_limits_hold_where_idle_parameters_move() -> None:
    tight = LinearLimit(tuple((f"x{j}", 1.0) for j in range(6)), 3.0)  # the default lies on it
    where = Space(tuple(Parameter(f"x{j}", "float", 0.5, 0.0, 1.0) for j in range(6)), (tight,))
    seen = measured(where, {"x0": 0.4}, {"x1": 0.3}, {"x2": 0.1}, {"x0": 0.6, "x1": 0.3})
    known = Knowledge.of(where, seen, QUICK)
    limits = Bonsai(QUICK, where, 0).limits
    for at in range(20):
        x = widened(where, limits, known, known.top(1)[0], (0, at))
        assert where.allows(where.decode(x.numpy()))
        assert np.isfinite(x.numpy()).all()
