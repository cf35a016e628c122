"""Generated data has the nature that was asked for, and its ceiling is the true one."""

from __future__ import annotations

import numpy as np
import pytest

from recengine.data import GeneratorConfig, SplitConfig, audit, generate, split
from recengine.data.tie_order import tie_report
from recengine.errors import ConfigError


@pytest.fixture(scope="module")
def made():
    return generate(GeneratorConfig(n_users=1500, n_items=300, seed=4))


def test_a_function_of_the_config(made):
    again, _ = generate(GeneratorConfig(n_users=1500, n_items=300, seed=4))
    other, _ = generate(GeneratorConfig(n_users=1500, n_items=300, seed=5))
    assert again.fingerprint() == made[0].fingerprint() != other.fingerprint()


def test_no_repeats_and_the_asked_length(made):
    interactions, _ = made
    pairs = interactions.user.astype(np.int64) * interactions.n_items + interactions.item
    assert np.unique(pairs).size == pairs.size
    assert interactions.lengths().min() >= 3
    assert interactions.lengths().mean() == pytest.approx(20, abs=1.5)


def test_popularity_has_a_head_and_a_tail(made):
    counts = np.sort(made[0].popularity())[::-1]
    assert counts[:30].sum() > 3 * counts[150:180].sum()


def test_baskets_are_ties_sorted_by_id_as_in_a_shop(made):
    report = tie_report(made[0])
    assert 0.3 < report.tied_share < 0.6
    assert report.file_ids.share == 1.0
    assert not report.used_ids.predictable
    found = audit(split(made[0]))
    assert [finding.severity for finding in found if finding.severity != "info"] == ["warn"]


def test_the_last_event_stands_alone(made):
    interactions, truth = made
    last = interactions.indptr[1:] - 1
    assert (interactions.time[last] > interactions.time[last - 1]).all()
    assert np.array_equal(interactions.item[last], truth.items[truth.offsets[1:] - 1])


def test_the_ceiling_is_what_the_truth_reaches_and_nobody_exceeds(made):
    interactions, truth = made
    task = split(interactions, SplitConfig(strategy="leave_one_out")).test
    chance = truth.last_event_probabilities(task.users)
    assert np.allclose(chance.sum(axis=1), 1)
    assert (chance[np.arange(len(task)), task.targets] > 0).all()
    histories = task.histories()
    rows = np.repeat(np.arange(len(task)), np.diff(histories.offsets))
    assert (chance[rows, histories.items] == 0).all()

    def ndcg(scores):
        own = scores[np.arange(len(task)), task.targets][:, None]
        rank = (scores > own).sum(axis=1)
        gain = np.where(rank < 10, 1 / np.log2(rank + 2), 0)
        return gain.mean(), gain.std() / np.sqrt(gain.size)

    best = truth.best_ndcg(10)
    reached, error = ndcg(chance)
    assert abs(reached - best) < 4 * error
    popular = np.broadcast_to(interactions.popularity().astype(float), chance.shape).copy()
    popular[rows, histories.items] = -1
    assert ndcg(popular)[0] < best - 0.1


def test_the_draw_follows_the_stated_probabilities():
    config = GeneratorConfig(n_users=4000, n_items=40, mean_length=4, n_clusters=1, follow=0, drift=0)
    _, truth = generate(config)
    first = truth.items[truth.offsets[:-1]]
    share = np.bincount(first, minlength=40) / first.size
    assert np.abs(share - truth.base[0, 0]).max() < 4 * np.sqrt(0.25 / first.size)


def test_drift_moves_popularity():
    still, moved = (
        generate(GeneratorConfig(n_users=1500, drift=drift, follow=0, taste=0, seed=1))[0]
        for drift in (0.0, 3.0)
    )

    def change(x):
        early = np.bincount(x.item[x.time < 90], minlength=x.n_items)
        late = np.bincount(x.item[x.time > 270], minlength=x.n_items)
        return np.corrcoef(early, late)[0, 1]

    assert change(still) > 0.8 > change(moved) + 0.2


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="quarter"):
        GeneratorConfig.parse({"n_items": 40, "mean_length": 30})
