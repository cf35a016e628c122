"""Conformance of recourse methods."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recengine.contracts.recourse import RecourseAnswer
from recengine.testing.base import Conformance


class RecourseConformance(Conformance):
    """Checks of a recourse method, built as ``Method(features, labels, config)``: one answer a person,
    certified means reached, the same again, nobody depends on the others."""

    kind = "recourse"

    @staticmethod
    def world(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """features [200, 3], labels [200] (mostly: the sum is positive), people [6, 3] who are refused."""
        rng = np.random.default_rng(seed)
        features = rng.normal(size=(200, 3))
        labels = (features.sum(1) + rng.normal(0, 0.5, 200) > 0).astype(np.int64)
        return features, labels, features[features.sum(1) < -0.5][:6]

    def answer(self, people: NDArray[np.float64] | None = None) -> RecourseAnswer:
        """What a fresh method says."""
        features, labels, refused = self.world()
        method: Any = self.entry().load()(features, labels, self.config())
        answer: RecourseAnswer = method.solve(refused if people is None else people, None)
        return answer

    def test_one_answer_a_person(self) -> None:
        people = self.world()[2]
        answer = self.answer()
        assert answer.points.shape == people.shape, f"points {answer.points.shape}, people {people.shape}"
        assert answer.costs.shape == (len(people),)
        assert answer.certified.shape == (len(people),)
        assert answer.certified.dtype == np.bool_
        assert answer.guarantee.strip(), "it does not say what is guaranteed"

    def test_certified_means_reached(self) -> None:
        answer = self.answer()
        assert np.isfinite(answer.points[answer.certified]).all(), "a certified person has no point"
        assert (answer.costs[answer.certified] >= 0).all(), "a cost is negative"

    def test_a_change_costs_something(self) -> None:
        people, answer = self.world()[2], self.answer()
        moved = answer.certified & (np.abs(answer.points - people).max(1) > 1e-6)
        assert (answer.costs[moved] > 0).all(), "a change costs nothing"

    def test_the_same_again(self) -> None:
        one, other = self.answer(), self.answer()
        np.testing.assert_array_equal(one.points, other.points)

    def test_nobody_depends_on_the_others(self) -> None:
        people = self.world()[2]
        together = self.answer()
        alone = self.answer(people[2:3])
        np.testing.assert_allclose(alone.points[0], together.points[2], atol=1e-6)

    def test_nobody_is_an_answer_too(self) -> None:
        assert self.answer(self.world()[2][:0]).points.shape == (0, 3)
