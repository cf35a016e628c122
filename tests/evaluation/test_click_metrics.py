"""Click metrics against hand computation, sklearn and simulation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from recengine.errors import DataError
from recengine.evaluation.calibration import calibration_bins, expected_error, wilson
from recengine.evaluation.click_result import ClickEvaluation, ClickProtocol, measure_clicks
from recengine.evaluation.clicks import auc, auc_interval, auc_parts, click_metrics, gauc, normalised_entropy
from recengine.evaluation.off_policy import policy_value


def drawn(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = random.beta(1, 3, n)
    return (random.random(n) < p).astype(float), p


def test_normalised_entropy_of_the_rate_itself_is_one():
    labels = np.array([1, 0, 0, 0.0])
    assert normalised_entropy(labels, np.full(4, 0.25)) == pytest.approx(1.0)
    assert normalised_entropy(labels, np.array([0.9, 0.1, 0.1, 0.1])) < 1
    assert math.isnan(normalised_entropy(np.ones(3), np.full(3, 0.5)))


def test_bins_and_their_error_by_hand():
    labels = np.array([0, 1, 1, 1.0])
    bins = calibration_bins(labels, np.array([0.2, 0.4, 0.6, 0.8]), bins=2)
    assert [(b.predicted, b.observed, b.rows) for b in bins] == [
        (pytest.approx(0.3), 0.5, 2),
        (pytest.approx(0.7), 1.0, 2),
    ]
    assert expected_error(bins) == pytest.approx(0.25)


def test_equal_predictions_share_a_bin_whatever_the_order_of_the_rows():
    labels = np.sort(drawn(1000)[0])
    rate = labels.mean()
    assert click_metrics(labels, np.full(1000, rate), None)["ece"] == pytest.approx(0, abs=1e-12)
    steps = np.round(drawn(1000)[1], 1)
    order = np.random.default_rng(1).permutation(1000)
    one, other = calibration_bins(labels, steps), calibration_bins(labels[order], steps[order])
    assert [bin.rows for bin in one] == [bin.rows for bin in other]
    assert expected_error(one) == pytest.approx(expected_error(other), abs=1e-12)
    protocol = ClickProtocol("test")
    mine = measure_clicks(labels, np.full(1000, rate), protocol).estimates["ece"]
    assert 0 <= mine.low < mine.high < 0.05  # the interval's bins are the same


def test_the_error_has_the_bins_of_the_protocol():
    labels, p = drawn(1000)
    made = measure_clicks(labels, p, ClickProtocol("test", bins=50))
    assert len(made.bins) == 50
    assert made["ece"] == pytest.approx(expected_error(calibration_bins(labels, p, 50)))
    assert made["ece"] != pytest.approx(click_metrics(labels, p, None)["ece"])


def test_an_interval_that_does_not_exist_is_empty(tmp_path: Path):
    labels, p = np.array([0, 0, 1.0, 0]), np.array([0.1, 0.2, 0.8, 0.3])
    made = measure_clicks(labels, p, ClickProtocol("test"), groups=np.array([1, 1, 1, 2]))
    assert made["auc"] == made["gauc"] == 1
    for metric in ("auc", "gauc"):
        assert np.isnan([made.estimates[metric].low, made.estimates[metric].high]).all()
    assert np.isfinite(made.estimates["log_loss"].low)
    assert "nan" not in str(made)
    made.write(tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["summary"][0]["low"] is None
    assert math.isnan(ClickEvaluation.read(tmp_path).estimates["auc"].low)
    single = measure_clicks(labels[:1], p[:1], ClickProtocol("test"))
    assert all(math.isnan(one.low) for one in single.summary())


def test_wilson_is_scipys():
    from scipy import stats

    for k, n in ((0, 5), (3, 10), (10, 10)):
        expected = stats.binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_true_probabilities_are_calibrated_and_wrong_ones_are_not():
    labels, p = drawn()
    assert click_metrics(labels, p, None)["ece"] < 0.03
    assert click_metrics(labels, p, None)["calibration"] == pytest.approx(1, abs=0.06)
    assert click_metrics(labels, np.sqrt(p), None)["ece"] > 0.15


def test_delong_covers_the_true_auc_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    true = 0.7602499389  # Phi(1 / sqrt 2)
    hits = 0
    for _ in range(200):
        scores = np.concatenate([random.normal(1, 1, 40), random.normal(0, 1, 60)])
        low, high = auc_interval(np.repeat([1.0, 0.0], [40, 60]), scores)
        hits += low <= true <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_delong_is_centred_on_the_auc_with_ties():
    labels, p = drawn(300)
    low, high = auc_interval(labels, np.round(p, 1))
    assert (low + high) / 2 == pytest.approx(auc(labels, np.round(p, 1)))


def test_an_evaluation_survives_the_disk(tmp_path: Path):
    labels, p = drawn(500)
    groups = np.repeat(np.arange(50), 10)
    slices = {"place": (np.arange(500) % 3 - 1, ["left", "right"])}
    made = measure_clicks(labels, p, ClickProtocol("test", "abc"), groups=groups, slices=slices)
    assert made["gauc"] == pytest.approx(gauc(labels, p, groups))
    for one in made.summary():
        assert one.low <= one.mean <= one.high or one.metric == "ece"
    table = made.slices["place"]
    assert table["value"].to_list() == ["left", "right"]
    chosen = np.arange(500) % 3 == 1
    assert table["auc"][0] == pytest.approx(auc(labels[chosen], p[chosen]))
    assert table["rows"].sum() == 333
    made.write(tmp_path)
    again = ClickEvaluation.read(tmp_path)
    assert again.summary() == made.summary()
    assert again.bins == made.bins
    assert again.protocol.hash == made.protocol.hash
    assert again.slices["place"].equals(made.slices["place"])
    with pytest.raises(DataError, match="no whole evaluation"):
        ClickEvaluation.read(tmp_path / "other")


def test_policy_values_by_hand():
    told = policy_value([1, 0, 1, 0], [0.5, 0.5, 0.25, 0.25], [1, 0, 1, 0])
    assert told.plain[0] == 0.5
    assert told.ips[0] == pytest.approx((2 + 4) / 4)
    assert told.snips[0] == pytest.approx(1.0)
    assert told.effective == pytest.approx(36 / 20)


def test_ips_and_snips_find_the_value_that_the_log_hides():
    """Two choices, the poor one shown nine times out of ten; showing both equally earns 0.45."""
    random = np.random.default_rng(0)
    n = 40_000
    poor = random.random(n) < 0.9
    clicks = (random.random(n) < np.where(poor, 0.1, 0.8)).astype(float)
    chance = np.where(poor, 0.9, 0.1)
    told = policy_value(clicks, chance, np.full(n, 0.5))
    assert told.plain[0] == pytest.approx(0.17, abs=0.01)
    for value, low, high in (told.ips, told.snips):
        assert value == pytest.approx(0.45, abs=0.02)
        assert low < 0.45 < high
    assert told.effective < n / 2


def test_policy_values_need_chances():
    with pytest.raises(DataError, match="chances"):
        policy_value([1.0], [0.0], [1.0])
    with pytest.raises(DataError, match="none of the logged"):
        policy_value([1.0], [0.5], [0.0])


def test_the_parts_of_the_auc_have_its_mean_and_the_variance_of_delong() -> None:
    random = np.random.default_rng(4)
    labels = random.integers(0, 2, 400)
    scores = np.round(random.normal(size=400) + labels, 1)  # with ties
    parts = auc_parts(labels, scores)
    assert parts.mean() == pytest.approx(auc(labels, scores))
    low, high = auc_interval(labels, scores)
    p, n = labels.sum(), (1 - labels).sum()
    centred = parts - parts.mean()
    s10 = (centred[labels == 1] ** 2).sum() / 400**2 * p / (p - 1)
    s01 = (centred[labels == 0] ** 2).sum() / 400**2 * n / (n - 1)
    assert 1.959964 * np.sqrt(s10 + s01) == pytest.approx((high - low) / 2, rel=1e-6)
    assert np.isnan(auc_parts(np.ones(3), np.arange(3.0))).all()
