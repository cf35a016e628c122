"""Conformance of tuners."""

from __future__ import annotations

import math
from typing import Any

from recengine.config import SearchRange
from recengine.contracts.tuner import Observation
from recengine.testing.base import Conformance

SPACE = {
    "rate": SearchRange(1e-4, 1e-1, log=True),
    "width": SearchRange(0.0, 1.0),
    "kind": SearchRange(choices=("a", "b")),
}
DEFAULT = {"rate": 1e-3, "width": 0.2, "kind": "a"}


def worth(point: dict[str, Any]) -> float:
    """A smooth hill: best (0) at rate 0.03, width 0.7, kind 'b'."""
    miss = math.log10(point["rate"] / 0.03) ** 2 + (point["width"] - 0.7) ** 2
    return float(-miss - (0.5 if point["kind"] == "a" else 0.0))


class TunerConformance(Conformance):
    """Checks of a tuner, built as ``Tuner(config, space, default, seed)`` with ``space`` by name:
    points of the space, the same again under one seed, an answer that is no worse than the default."""

    kind = "tuner"

    def built(self, seed: int = 0) -> Any:
        """A fresh tuner of the test space."""
        return self.entry().load()(self.config(), SPACE, DEFAULT, seed)

    def play(self, seed: int, rounds: int = 12) -> list[Observation]:
        """Let it propose two points a round and tell it what they were worth."""
        tuner = self.built(seed)
        history: list[Observation] = []
        for _ in range(rounds):
            points = tuner.propose(list(history), 2)
            history += [Observation(point, (worth(point),), seed=seed) for point in points]
        return history

    def test_proposes_as_many_points_as_asked(self) -> None:
        for n in (1, 3):
            assert len(self.built().propose([], n)) == n

    def test_proposes_points_of_the_space(self) -> None:
        for seen in self.play(0):
            point = seen.parameters
            assert set(point) == set(SPACE), f"keys {sorted(point)}, expected {sorted(SPACE)}"
            assert 1e-4 <= point["rate"] <= 1e-1, f"rate {point['rate']} is out of range"
            assert 0 <= point["width"] <= 1, f"width {point['width']} is out of range"
            assert point["kind"] in ("a", "b"), f"kind {point['kind']!r} is no choice"

    def test_one_seed_gives_one_course(self) -> None:
        assert self.play(3) == self.play(3)

    def test_ends_no_worse_than_the_default(self) -> None:
        reached = max(seen.values[0] for seen in self.play(0, rounds=20))
        assert reached >= worth(DEFAULT), f"best {reached:.3f}, the default has {worth(DEFAULT):.3f}"

    def test_infeasible_trials_do_not_stop_it(self) -> None:
        failed = [Observation(dict(DEFAULT), (float("nan"),), feasible=False)]
        assert len(self.built().propose(failed, 1)) == 1
