"""Why none, what binds, what else: asked of a method whose answers are known by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from recengine.contracts.recourse import RecourseAnswer
from recengine.recourse import Constraints, admissible, binding, compile_constraints, conflict, diverse

NAMES = ("a", "b", "c")


@dataclass
class Nearest:
    """Accepts sum(x) >= need; moves the cheapest free features by up to 1 each."""

    need: float

    def solve(self, people: np.ndarray, constraints: Constraints) -> RecourseAnswer:
        _, high = constraints.bounds(people)
        point = people.copy()
        missing = self.need - people.sum()
        for i in np.argsort(constraints.cost, kind="stable"):
            step = min(missing, max(min(high[0, i] - people[0, i], 1.0), 0.0))
            point[0, i] += step
            missing -= step
        found = missing <= 1e-12
        cost = float(np.abs(point - people)[0] @ constraints.cost)
        nothing = np.full_like(point, np.nan)
        return RecourseAnswer(
            point if found else nothing, np.array([cost if found else np.nan]), np.array([found]), "by hand"
        )


def test_the_minimal_conflict_is_found() -> None:
    rules = compile_constraints(
        {
            "features": {
                "a": {"immutable": True},
                "b": {"direction": "down"},
                "c": {"range": [-5, 5], "cost": 2},
            }
        },
        NAMES,
    )
    found = conflict(Nearest(2.5), np.zeros(3), rules)
    assert found is not None
    assert found.labels == ("b: only down",) or found.labels == ("a: immutable",)
    assert not found.of_itself
    assert conflict(Nearest(1.0), np.zeros(3), rules) is None
    hopeless = conflict(Nearest(9.0), np.zeros(3), rules)
    assert hopeless is not None
    assert hopeless.labels == ()


def test_rules_that_contradict_each_other_are_named_without_the_model() -> None:
    rules = compile_constraints(
        {
            "features": {"a": {"immutable": True}, "b": {"range": [0, 10]}, "c": {"integer": True}},
            "linear": [{"coefficients": {"a": 1}, "at_most": -1}, {"coefficients": {"b": 1}, "at_most": 5}],
        },
        NAMES,
    )
    assert not admissible(np.zeros(3), rules)
    found = conflict(Nearest(1.0), np.zeros(3), rules)
    assert found is not None
    assert found.of_itself
    assert found.labels == ("a: immutable", "linear limit 1")


@pytest.mark.parametrize(
    ("values", "limit", "possible"), [([2, 4], 3, True), ([4, 6], 3, True), ([4, 6], -1, False)]
)
def test_allowed_values_count_in_contradictions(values: list[float], limit: float, possible: bool) -> None:
    rules = compile_constraints(
        {"features": {"a": {"allowed": values}}, "linear": [{"coefficients": {"a": 1}, "at_most": limit}]},
        NAMES,
    )
    assert admissible(np.zeros(3), rules) == possible  # the person's own 0 may stay


def test_what_binds_and_what_it_costs() -> None:
    rules = compile_constraints({"features": {"a": {"immutable": True}, "c": {"cost": 3}}}, NAMES)
    answer = Nearest(1.5).solve(np.zeros((1, 3)), rules)
    assert answer.costs[0] == pytest.approx(1 + 0.5 * 3)
    [price] = binding(Nearest(1.5), np.zeros(3), rules, float(answer.costs[0]))
    assert price.label == "a: immutable"
    assert price.cost_without == pytest.approx(1.5)


def test_diverse_answers_differ_and_cost_more_and_more() -> None:
    rules = compile_constraints({"features": {"b": {"cost": 2}, "c": {"cost": 3}}}, NAMES)
    answers = diverse(Nearest(1.0), np.zeros(3), rules, 5)
    assert [answer.costs[0] for answer in answers] == [1, 2, 3]
    assert len({tuple(answer.points[0] != 0) for answer in answers}) == 3
