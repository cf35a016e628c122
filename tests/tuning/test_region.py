"""The walk within linear limits: everywhere in a small region, and nowhere else."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest

from recengine.errors import UsageError
from recengine.hooks import host
from recengine.tuning import LinearLimit, Parameter, Space, walk


def simplex(d: int, default: float = 0.05, at_most: float = 1.0) -> Space:
    names = [f"w{i}" for i in range(d)]
    limit = LinearLimit(tuple((name, 1.0) for name in names), at_most)
    return Space(tuple(Parameter(name, "float", default, 0.0, 1.0) for name in names), (limit,))


def points(space: Space, n: int, seed: int = 0) -> list[dict[str, Any]]:
    return list(islice(walk(space, np.random.default_rng(seed)), n))


def test_the_walk_is_uniform_over_a_simplex() -> None:
    found = points(simplex(3), 500)
    assert found[:20] == points(simplex(3), 20)
    assert found[:20] != points(simplex(3), 20, seed=1)
    drawn = np.array([list(point.values()) for point in found])
    assert (drawn.sum(axis=1) <= 1 + 1e-9).all()
    # uniform: each weight has mean 1/(d+1), the slack is Beta(1, d)
    assert drawn.mean(axis=0) == pytest.approx(np.full(3, 0.25), abs=0.035)
    assert (drawn.sum(axis=1) < 0.5).mean() == pytest.approx(0.5**3, abs=0.05)


@pytest.mark.parametrize("at", [0.0, 0.125])
def test_the_walk_leaves_a_corner_and_a_limit_that_the_default_lies_on(at: float) -> None:
    found = points(simplex(8, at), 20)
    assert len({tuple(point.values()) for point in found}) == 20
    assert all(simplex(8).allows(point) for point in found)


def test_the_walk_moves_integers_logarithms_and_choices() -> None:
    space = Space(
        (
            Parameter("n", "int", 1, 1, 50),
            Parameter("rate", "float", 1e-3, 1e-4, 10.0, log=True),
            Parameter("kind", "choice", "a", choices=("a", "b", "c")),
            Parameter("deep", "float", 0.5, 0.0, 1.0, when=(("kind", ("a",)),)),
        ),
        (LinearLimit((("n", 1.0), ("rate", 1.0), ("deep", 1.0)), 3.0),),
    )
    found = points(space, 60)
    for point in found:
        space.check(point)
        assert space.allows(point)
        assert space.settle(point) == point
    assert {point["n"] for point in found} >= {1, 2}
    assert {point["kind"] for point in found} == {"a", "b", "c"}
    assert max(point["rate"] for point in found) > 0.1


def test_a_region_of_one_point_is_named() -> None:
    with pytest.raises(UsageError, match=r"(?s)linear limits.*loosen"):
        points(simplex(3, 0.0, at_most=0.0), 1)


@pytest.mark.parametrize("name", ["random", "sobol", "tpe", "bonsai"])
def test_every_tuner_finds_points_in_a_small_region(name: str) -> None:
    if name in ("tpe", "bonsai"):
        pytest.importorskip({"tpe": "optuna", "bonsai": "botorch"}[name])
    entry, space = host().registries["tuner"].get(name), simplex(12, 0.03)
    cut = {} if name == "bonsai" else {"most_draws": 50}
    found = [entry.load()(entry.load_config()(**cut), space, 0).propose([], 3) for _ in range(2)]
    assert found[0] == found[1]
    assert all(space.allows(point) for point in found[0])
    assert len({point["w0"] for point in found[0]}) == 3
