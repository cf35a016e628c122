"""The planted problems: their optima, and what they depend on."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "tuning"))

import problems
from problems import DEVELOPMENT, PROBLEMS, Problem

ALL = PROBLEMS | DEVELOPMENT


@pytest.mark.parametrize("name", ALL)
def test_nothing_beats_the_stated_optimum_and_only_what_matters_matters(name: str) -> None:
    problem: Problem = ALL[name]()
    space, generator = problem.space, np.random.default_rng(0)
    default = problem.value(space.default)
    assert default < problem.best
    for _ in range(300):
        row = generator.random(space.width)
        point = space.decode(row)
        assert problem.value(point) <= problem.best + 1e-6
        others = {k: v for k, v in point.items() if k not in problem.relevant}
        assert problem.value({**space.default, **others}) == default


def test_the_hills_are_as_high_as_stated() -> None:
    def highest(starts: list[tuple[float, ...]]) -> float:
        tries = [minimize(lambda u: -problems.peaks(list(u)), s, bounds=[(0, 1)] * 6) for s in starts]
        return -min(found.fun for found in tries)

    assert highest([centre for _, _, centre in problems._PEAKS]) == pytest.approx(
        problems.PEAKS_BEST, abs=1e-4
    )
    best = -np.inf
    for n, m, level in product((2, 3, 4, 9, 10, 11), (2, 3, 4, 9, 10, 11), problems._STEPS.values()):
        for _, _, c in problems._PEAKS[2:]:
            found = minimize(
                lambda z, n=n, m=m, level=level: -problems.peaks([z[0], n / 12, z[1], m / 12, level, z[2]]),
                (c[0], c[2], c[5]),
                bounds=[(0, 1)] * 3,
            )
            best = max(best, -found.fun)
    assert best == pytest.approx(problems.MIXED_PEAKS_BEST, abs=1e-4)


def test_waves_and_recipe_are_optimal_where_stated() -> None:
    ripples = DEVELOPMENT["ripples25"]()
    assert ripples.value({**ripples.space.default, **dict.fromkeys(ripples.relevant, 0.65)}) == pytest.approx(
        0
    )
    recipe = DEVELOPMENT["recipe24"]()
    at = {"n0": 8, "n1": 6, "r0": 10**-1.5, "r1": 1e-3, "s0": 0.3, "s1": 0.6, "k0": "b", "f0": True}
    assert recipe.value({**recipe.space.default, **at}) == pytest.approx(recipe.best)
