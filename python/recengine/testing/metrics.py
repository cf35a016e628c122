"""Conformance of metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from recengine.contracts.metric import CatalogueMetric, Metric, PlaceMetric, RankedLists
from recengine.testing.base import Conformance, made, skip

USERS, LENGTH, ITEMS = 40, 20, 60


class MetricConformance(Conformance):
    """Checks of a metric: one value a user, the first k places only, better lists are no worse."""

    kind = "metric"

    def metric(self) -> Any:
        """The metric, ready to use."""
        return made(self.entry().load())

    def lists(self, seed: int = 0) -> RankedLists:
        """Random lists; some are short, some users have no target in theirs. Arrays are read-only."""
        rng = np.random.default_rng(seed)
        items = np.stack([rng.permutation(ITEMS)[:LENGTH] for _ in range(USERS)])
        hits = rng.random((USERS, LENGTH)) < 0.15
        for user, length in enumerate(rng.integers(0, LENGTH + 1, USERS // 4)):
            items[user, length:], hits[user, length:] = -1, False
        hits[-5:] = False
        n_targets = hits.sum(1) + rng.integers(1, 4, USERS)
        popularity = rng.integers(1, 50, ITEMS).astype(np.float64)
        for array in (items, hits, n_targets, popularity):
            array.setflags(write=False)
        return RankedLists(items, hits, n_targets, popularity, ITEMS)

    def test_says_what_it_is(self) -> None:
        metric = self.metric()
        assert isinstance(metric.name, str)
        assert metric.name, "it has no name"
        assert isinstance(metric.definition, str)
        assert metric.definition, "it has no one-line definition"
        assert "\n" not in metric.definition, "the definition is one line"
        assert isinstance(metric.higher_is_better, bool)

    def ranking_metric(self) -> Any:
        """The metric, where it is one of lists a user."""
        metric = self.metric()
        if not isinstance(metric, Metric):
            skip("it does not measure lists a user")
        return metric

    def test_is_a_metric(self) -> None:
        assert isinstance(self.metric(), Metric | PlaceMetric | CatalogueMetric), (
            "none of per_user, of_places and over_catalogue"
        )

    def test_one_number_a_catalogue(self) -> None:
        metric = self.metric()
        if not isinstance(metric, CatalogueMetric):
            skip("it does not measure all lists together")
        exposure = np.random.default_rng(0).integers(0, 9, ITEMS)
        value = metric.over_catalogue(exposure)
        assert isinstance(value, float), f"{type(value).__name__}, expected float"
        assert np.isfinite(value), f"the value is {value}"
        assert np.isclose(metric.over_catalogue(exposure[::-1].copy()), value), "the order of items counts"
        metric.over_catalogue(np.zeros(ITEMS, np.int64))

    def test_one_number_a_place(self) -> None:
        metric = self.metric()
        if not isinstance(metric, PlaceMetric):
            skip("it does not measure places")
        places = np.arange(ITEMS + 1, dtype=np.int64)
        values = metric.of_places(places, np.full(ITEMS + 1, ITEMS))
        assert values.shape == (ITEMS + 1,), f"shape {values.shape}, expected {(ITEMS + 1,)}"
        assert values.dtype == np.float64, f"dtype {values.dtype}, expected float64"
        assert not np.isinf(values).any(), "a value is infinite"
        steps = np.diff(values[1:]) * (-1 if metric.higher_is_better else 1)
        assert (steps >= 0).all(), "a better place is worse"

    def test_one_number_a_user(self) -> None:
        values = self.ranking_metric().per_user(self.lists(), 10)
        assert values.shape == (USERS,), f"shape {values.shape}, expected {(USERS,)}"
        assert values.dtype == np.float64, f"dtype {values.dtype}, expected float64"
        assert not np.isinf(values).any(), "a value is infinite"

    def test_no_users_no_values(self) -> None:
        lists = self.lists()
        none = replace(lists, items=lists.items[:0], hits=lists.hits[:0], n_targets=lists.n_targets[:0])
        assert self.ranking_metric().per_user(none, 10).shape == (0,)

    def test_does_not_depend_on_the_order_of_users(self) -> None:
        lists, order = self.lists(), np.random.default_rng(1).permutation(USERS)
        shuffled = replace(
            lists, items=lists.items[order], hits=lists.hits[order], n_targets=lists.n_targets[order]
        )
        expected = self.ranking_metric().per_user(lists, 10)[order]
        np.testing.assert_allclose(self.ranking_metric().per_user(shuffled, 10), expected)

    def test_looks_at_the_first_k_only(self) -> None:
        lists = self.lists()
        items, hits = lists.items.copy(), lists.hits.copy()
        items[:, 5:], hits[:, 5:] = -1, False
        cut = self.ranking_metric().per_user(replace(lists, items=items, hits=hits), 5)
        np.testing.assert_allclose(self.ranking_metric().per_user(lists, 5), cut)

    def test_a_better_list_is_no_worse(self) -> None:
        metric, lists = self.ranking_metric(), self.lists()
        full = replace(lists, items=np.where(lists.items < 0, 0, lists.items))
        first = np.zeros_like(full.hits)
        first[:, 0] = True
        none = np.zeros_like(full.hits)
        ones = np.ones_like(full.n_targets)
        good = metric.per_user(replace(full, hits=first, n_targets=ones), 10)
        bad = metric.per_user(replace(full, hits=none, n_targets=ones), 10)
        known = ~(np.isnan(good) | np.isnan(bad))
        better = good[known] >= bad[known] if metric.higher_is_better else good[known] <= bad[known]
        assert better.all(), "a list with its target on top is worse than a list without"
