"""Conformance of tuners."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from recengine.config import Config, knob
from recengine.contracts.tuner import Observation
from recengine.testing.base import Conformance
from recengine.tuning import LinearLimit, Parameter, Space
from recengine.tuning.values import kept


class Hill(Config):
    """Three kinds of knob: logarithmic, linear, a choice."""

    rate: float = knob(1e-3, "a rate", gt=0, low=1e-4, high=1e-1, log=True)
    width: float = knob(0.2, "a width", low=0.0, high=1.0)
    kind: Literal["a", "b"] = knob("a", "a kind", choices=("a", "b"))


def worth(point: Mapping[str, Any]) -> float:
    """A smooth hill: best (0) at rate 0.03, width 0.7, kind 'b'."""
    miss = math.log10(point["rate"] / 0.03) ** 2 + (point["width"] - 0.7) ** 2
    return float(-miss - (0.5 if point["kind"] == "a" else 0.0))


def bare(point: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters without the notes that a policy may add (``__facts__``)."""
    return {name: value for name, value in point.items() if name != "__facts__"}


class TunerConformance(Conformance):
    """Checks of a tuner, built as ``Tuner(config, space, seed)``:
    points of the space within its limits, the same again under one seed, an answer that is no worse than the
    default, notes that a study's file can keep."""

    kind = "tuner"

    def built(self, seed: int = 0) -> Any:
        """A fresh tuner of the test space."""
        return self.entry().load()(self.config(), Space.of_config(Hill), seed)

    def play(self, seed: int, rounds: int = 4) -> list[Observation]:
        """Let it propose two points a round and tell it what they were worth."""
        tuner = self.built(seed)
        history: list[Observation] = []
        for _ in range(rounds):
            points = [bare(point) for point in tuner.propose(list(history), 2)]
            history += [Observation(point, (worth(point),), seed=seed) for point in points]
        return history

    def test_proposes_as_many_points_as_asked(self) -> None:
        for n in (1, 3):
            assert len(self.built().propose([], n)) == n

    def test_proposes_points_of_the_space(self) -> None:
        for seen in self.play(0):
            point = seen.parameters
            assert set(point) == set(Hill.model_fields), f"keys {sorted(point)}"
            assert 1e-4 <= point["rate"] <= 1e-1, f"rate {point['rate']} is out of range"
            assert 0 <= point["width"] <= 1, f"width {point['width']} is out of range"
            assert point["kind"] in ("a", "b"), f"kind {point['kind']!r} is no choice"

    def test_meets_the_linear_limits(self) -> None:
        """Two numbers whose sum may not pass 0.6: most of the square is barred."""
        numbers = tuple(Parameter(name, "float", 0.1, 0.0, 1.0) for name in ("x", "y"))
        space = Space(numbers, (LinearLimit((("x", 1.0), ("y", 1.0)), 0.6),))
        tuner = self.entry().load()(self.config(), space, 0)
        history: list[Observation] = []
        for _ in range(4):
            for point in map(bare, tuner.propose(list(history), 2)):
                assert space.allows(space.settle(point)), f"{point} breaks {space.limits[0]}"
                history.append(Observation(point, (float(point["x"] + point["y"]),), seed=0))

    def test_its_notes_can_be_kept(self) -> None:
        tuner, history = self.built(), self.play(0)
        for at in (0, len(history)):
            for point in tuner.propose(history[:at], 1):
                kept(point.get("__facts__", {}), "proposal")

    def test_one_seed_gives_one_course(self) -> None:
        assert self.play(3, rounds=3) == self.play(3, rounds=3)

    def test_ends_no_worse_than_the_default(self) -> None:
        reached = max(seen.values[0] for seen in self.play(0, rounds=8))
        assert reached >= worth(Hill().model_dump()), (
            f"best {reached:.3f}, the default has {worth(Hill().model_dump()):.3f}"
        )

    def test_infeasible_trials_do_not_stop_it(self) -> None:
        failed = [Observation(Hill().model_dump(), (float("nan"),), feasible=False)]
        assert len(self.built().propose(failed, 1)) == 1
