"""The design: every parameter moved in two blocks, within the limits."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("botorch")

from recengine.contracts.tuner import Observation
from recengine.tuning import LinearLimit, Parameter, Space
from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.design import ROUNDS
from recengine_plugins.bonsai.policy import Bonsai, plain_bo


def floats(d: int, default: float = 0.5, limits: tuple[LinearLimit, ...] = ()) -> Space:
    return Space(tuple(Parameter(f"x{j}", "float", default, 0.0, 1.0) for j in range(d)), limits)


def design(space: Space, n: int = 10, seed: int = 0, config: BonsaiConfig | None = None) -> list[dict]:
    tuner = Bonsai(config or BonsaiConfig(initial=n), space, seed)
    history = [Observation(space.default, (0.0,))]
    while len(history) < n:
        point = tuner.propose(history, 1)[0]
        assert point.pop("__facts__")["origin"] == "design"
        history.append(Observation(point, (0.0,)))
    return [seen.parameters for seen in history[1:]]


@pytest.mark.parametrize("d", [25, 50])
def test_every_parameter_is_moved_in_as_many_points_as_there_are_rounds(d: int) -> None:
    space = floats(d)
    points = design(space)
    times = {name: sum(name in space.changed(p) for p in points) for name in space.names}
    # twice in one block happens, where both rounds put a parameter at the same place
    assert set(times.values()) <= set(range(1, ROUNDS + 1))
    assert sum(times.values()) > 1.6 * d
    most = max(len(space.changed(p)) for p in points)
    assert most <= ROUNDS * np.ceil(d / 9)
    assert design(space) == points
    assert design(space, seed=1) != points


def test_two_rounds_find_the_one_that_matters() -> None:
    """With one relevant parameter the points that differ from the default single it out, or nearly so."""
    space = floats(50)
    points = design(space)
    hot = [set(space.changed(p)) for p in points if "x7" in space.changed(p)]
    cold = set().union(*(set(space.changed(p)) for p in points if "x7" not in space.changed(p)))
    left = set.intersection(*hot) - cold
    assert "x7" in left
    assert len(left) <= 3


def test_choices_and_integers_are_moved_too() -> None:
    kinds = [Parameter(f"k{j}", "choice", "a", choices=("a", "b", "c")) for j in range(4)]
    flags = [Parameter(f"f{j}", "choice", False, choices=(False, True)) for j in range(4)]
    sizes = [Parameter(f"n{j}", "int", 4, 1, 16) for j in range(4)]
    single = [Parameter("only", "choice", "a", choices=("a",))]
    space = Space((*kinds, *flags, *sizes, *single))
    points = design(space)
    for name in space.names[:12]:
        assert any(name in space.changed(p) for p in points), name
    assert all(type(p["n0"]) is int for p in points)


def test_limits_hold_although_the_default_lies_on_them() -> None:
    tight = LinearLimit(tuple((f"x{j}", 1.0) for j in range(6)), 2.4)
    space = floats(25, 0.4, (tight, LinearLimit((("x0", 1.0), ("x10", 1.0)), 0.8)))
    points = design(space)
    assert all(space.allows(p) for p in points)
    # a barred direction is turned round, not given up: the bound parameters are moved as well
    assert all(any(f"x{j}" in space.changed(p) for p in points) for j in range(6))
    assert max(len(space.changed(p)) for p in points) <= 2 * 3 + 5


def test_few_parameters_and_plain_search_keep_the_dense_design() -> None:
    few, many = floats(5), floats(25)
    assert all(len(few.changed(p)) == 5 for p in design(few, 6))
    assert all(
        len(many.changed(p)) == 25 for p in design(many, config=BonsaiConfig(initial=10, design="sobol"))
    )
    plain = plain_bo(BonsaiConfig(initial=10), many, 0)
    point = plain.propose([Observation(many.default, (0.0,))], 1)[0]
    point.pop("__facts__")
    assert len(many.changed(point)) == 25
    # blocks of fewer parameters than points: no point repeats the default
    assert all(few.changed(p) for p in design(few, 8, config=BonsaiConfig(initial=8, design="blocks")))
