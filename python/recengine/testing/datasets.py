"""Conformance of data sets."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np

from recengine.data import Interactions
from recengine.errors import DataError
from recengine.testing.base import skip
from recengine.testing.shared import SourceConformance


class DatasetConformance(SourceConformance):
    """Checks of a data set: licence, a well-formed store, the same again. What is not here is skipped."""

    cache: ClassVar[Path | None] = None
    _loaded: ClassVar[dict[type, Interactions]] = {}

    def load(self) -> Interactions:
        """Read it; skips where the data is not on this machine."""
        try:
            if self.cache is not None:
                found: Interactions = self.source().load(self.cache)
            else:
                with tempfile.TemporaryDirectory() as empty:
                    found = self.source().load(Path(empty))
        except DataError as missing:
            skip(f"not here: {missing.problem}")
        return found

    def data(self) -> Interactions:
        """Loaded once a class."""
        if type(self) not in self._loaded:
            self._loaded[type(self)] = self.load()
        return self._loaded[type(self)]

    def test_is_a_well_formed_store(self) -> None:
        data = self.data()
        assert len(data) > 0, "it is empty"
        assert data.indptr[0] == 0
        assert data.indptr[-1] == len(data), "indptr does not span the rows"
        assert data.indptr.shape == (data.n_users + 1,)
        assert (np.diff(data.indptr) >= 0).all(), "indptr falls"
        owner = np.repeat(np.arange(data.n_users), np.diff(data.indptr))
        assert (np.asarray(data.user) == owner).all(), "rows are not grouped by user"
        assert int(data.item.min()) >= 0, "an item row is negative"
        assert int(data.item.max()) < data.n_items, "an item row is beyond the vocabulary"

    def test_is_sorted_by_time_inside_users(self) -> None:
        data = self.data()
        if data.time is None:
            skip("it has no times")
        same_user = np.diff(data.user) == 0
        assert (np.diff(data.time)[same_user] >= 0).all(), "a user's events are not in time order"

    def test_ids_are_mapped_both_ways(self) -> None:
        data = self.data()
        for vocabulary in (data.users, data.items):
            rows = np.arange(0, len(vocabulary), max(1, len(vocabulary) // 1000))
            assert (vocabulary.rows(vocabulary.tokens[rows]) == rows).all(), "a token has another row"

    def test_is_the_same_again(self) -> None:
        one, other = self.data(), self.load()
        assert np.array_equal(one.user, other.user), "users differ"
        assert np.array_equal(one.item, other.item), "items differ"
