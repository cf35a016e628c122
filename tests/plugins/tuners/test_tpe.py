"""The tuner that stands on Optuna."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recengine.contracts.tuner import Observation
from recengine.errors import UsageError
from recengine.tuning import LinearLimit, Parameter, Space

pytest.importorskip("optuna")

from recengine_plugins.tuners.config import SearchConfig, TPEConfig
from recengine_plugins.tuners.search import RandomSearch
from recengine_plugins.tuners.tpe import TPE

SPACE = Space(
    (
        Parameter("rate", "float", 1e-3, 1e-5, 1.0, log=True),
        Parameter("n", "int", 3, 1, 30),
        Parameter("kind", "choice", True, choices=(True, 1, "a")),
        Parameter("deep", "float", 0.5, 0.0, 1.0, when=(("kind", ("a",)),)),
    )
)


def worth(point: dict[str, Any]) -> float:
    miss = abs(np.log10(point["rate"]) + 2) + abs(point["n"] - 20) / 10 + abs(point["deep"] - 0.9)
    return float(-miss - (point["kind"] != "a"))


def best(tuner: Any, trials: int) -> float:
    history: list[Observation] = []
    for _ in range(trials):
        point = tuner.propose(history, 1)[0]
        SPACE.check(point)
        assert SPACE.settle(point) == point
        history.append(Observation(point, (worth(point),)))
    return max(seen.values[0] for seen in history)


def test_finds_more_than_random_search() -> None:
    ours = [best(TPE(TPEConfig(), SPACE, seed), 50) for seed in range(5)]
    theirs = [best(RandomSearch(SearchConfig(), SPACE, seed), 50) for seed in range(5)]
    assert np.median(ours) > np.median(theirs)


def test_choices_of_one_value_but_two_types_stay_apart() -> None:
    history = [Observation({"rate": 0.1, "n": 2, "kind": k, "deep": 0.5}, (1.0,)) for k in (True, 1)]
    drawn = TPE(TPEConfig(startup=0), SPACE, 0).propose(history, 40)
    assert {type(point["kind"]) for point in drawn} >= {bool, int}


def test_two_objectives_failed_trials_and_points_under_way() -> None:
    points = RandomSearch(SearchConfig(), SPACE, 0).propose([], 15)
    history = [Observation(p, (worth(p), -float(p["n"]))) for p in points]
    history += [Observation(points[0], (float("nan"), 0.0)), Observation(points[1], (), feasible=False)]
    tuner = TPE(TPEConfig(), SPACE, 1)
    found = tuner.propose(history, 2, pending=points[:3])
    assert found == tuner.propose(history, 2, pending=points[:3])
    assert found != tuner.propose(history, 2, pending=points[:2])


def test_linear_limits_hold_or_are_named() -> None:
    ends = Parameter("x", "float", 0.1, 0.0, 1.0), Parameter("y", "float", 0.1, 0.0, 1.0)
    narrow = Space(ends, (LinearLimit((("x", 1.0), ("y", 1.0)), 0.5),))
    drawn = TPE(TPEConfig(), narrow, 0).propose([], 20)
    assert all(point["x"] + point["y"] <= 0.5 for point in drawn)
    small = Space(ends, (LinearLimit((("x", 1.0), ("y", 1.0)), 0.2),))
    drawn = TPE(TPEConfig(most_draws=3), small, 0).propose([], 5)
    assert all(small.allows(point) for point in drawn)
    assert len({point["x"] for point in drawn}) == 5
    at = tuple(Parameter(name, "float", 0.0, 0.0, 1.0) for name in "xy")
    tight = Space(at, (LinearLimit((("x", 1.0), ("y", 1.0)), 0.0),))
    with pytest.raises(UsageError, match="linear limits"):
        TPE(TPEConfig(most_draws=3), tight, 0).propose([], 3)
