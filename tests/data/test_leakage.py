"""Every leak is planted once and must be found; clean data must pass in silence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from recengine.contracts.auditor import Finding
from recengine.data import FeatureFit, Interactions, SplitConfig, View, audit, split
from recengine.data.leakage import failures
from recengine.data.tie_order import id_ranks, two_sided_p

STRATEGIES = [
    {"strategy": "leave_one_out"},
    {"strategy": "leave_two_out"},
    {"strategy": "strict_leave_two_out"},
    {"strategy": "ratio_random"},
    {"strategy": "ratio_time"},
    {"strategy": "time_point", "test_span": 10, "validation_span": 10},
]


def shopping(ties="hash", sort_ids=False, seed=0):
    """600 users, five baskets of up to four distinct items each, a basket a day."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(600):
        items = rng.choice(200, 20, replace=False)
        for day, basket in enumerate(np.split(items, 5)):
            basket = np.sort(basket) if sort_ids else basket
            rows += [(user, item, 10 * day + user % 7) for item in basket.tolist()]
    user, item, time = np.array(rows).T
    return Interactions.from_arrays(user, item, time, ties=ties)


def severe(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.check, finding.severity) for finding in findings if finding.severity != "info"]


@pytest.mark.parametrize("config", STRATEGIES, ids=lambda config: config["strategy"])
@pytest.mark.parametrize("ties", ["hash", "rows"])
def test_clean_data_passes_in_silence(config, ties):
    assert severe(audit(split(shopping(ties), SplitConfig(**config)))) == []


def test_overlap_of_training_with_a_held_out_pair():
    parts = split(shopping())
    leaked = replace(parts, train=parts.test.history)  # trained on validation too
    found = failures(audit(leaked))
    assert [finding.check for finding in found] == ["overlap"]
    assert found[0].evidence["pairs"] == len(parts.validation)
    assert "user 0" in found[0].evidence["example"]


def test_overlap_of_another_view():
    whole = shopping()
    parts = split(whole)
    clean = View("graph", parts.train)
    assert severe(audit(parts, views=[clean])) == []
    # the graph was built from a file with another tie order: some held-out pairs are among its training
    other = split(replace_seed(whole, 5)).train
    text = Interactions.from_arrays(other.users.tokens[other.user], other.items.tokens[other.item])
    found = failures(audit(parts, views=[View("graph", text)]))
    assert {finding.evidence["task"] for finding in found} == {"validation", "test"}
    assert all(finding.evidence["view"] == "graph" for finding in found)


def replace_seed(whole, seed):
    return Interactions.from_arrays(
        whole.users.tokens[whole.user], whole.items.tokens[whole.item], whole.time, seed=seed
    )


def test_validation_and_test_ask_the_same_pair():
    parts = split(shopping())
    same = replace(parts.validation, targets=parts.test.targets)
    assert ("overlap", "fail") in severe(audit(replace(parts, validation=same)))


@pytest.mark.parametrize("strategy", ["leave_two_out", "ratio_time"])
def test_history_after_the_target(strategy):
    parts = split(shopping(), SplitConfig(strategy=strategy))
    late = replace(parts.train, time=parts.train.time + (parts.train.user == 3) * 1000)
    found = failures(audit(replace(parts, train=late, validation=replace(parts.validation, history=late))))
    assert [finding.check for finding in found] == ["time order"]
    assert found[0].evidence["users"] == 1


def test_training_after_the_time_point():
    parts = split(shopping(), SplitConfig(strategy="time_point", test_span=10))
    # user 599 has no target, so that only the global check can see it
    train = replace(parts.train, time=np.where(parts.train.source == 0, 10**6, parts.train.time))
    test = replace(parts.test, users=parts.test.users, history=parts.test.history)
    assert ("time order", "fail") in severe(audit(replace(parts, train=train, test=test)))


def test_random_ratio_is_out_of_time_order_by_choice():
    found = audit(split(shopping(), SplitConfig(strategy="ratio_random")))
    assert {(finding.check, finding.severity) for finding in found} >= {("time order", "info")}


def test_given_parts_out_of_time_order_are_a_warning():
    whole = shopping()
    marked = replace(whole, part=(whole.source % 5 == 0).astype(np.int8) * 2)
    assert severe(audit(split(marked))) == [("time order", "warn")]


def test_users_and_items_without_a_training_event_are_counted():
    def told(parts):
        return [f for f in audit(parts) if f.check == "no training events"]

    parts = split(shopping())
    assert told(parts) == []
    kept = parts.train.select((parts.train.user >= 2) & (parts.train.item != 7))
    (found,) = told(replace(parts, train=kept))
    assert (found.severity, found.evidence) == ("info", {"users": 2, "items": 1})
    assert "2 of 600 users and 1 of 200 items" in found.message


def test_duplicated_pairs():
    parts = split(shopping())
    twice = np.sort(np.append(np.arange(len(parts.train)), 5))
    train = parts.train.select(twice)
    found = audit(replace(parts, train=train))
    assert severe(found) == [("duplicated pairs", "warn")]
    assert next(f for f in found if f.check == "duplicated pairs").evidence["events"] == 1
    again = replace(
        parts.test,
        targets=np.repeat(parts.test.targets, 2),
        indptr=parts.test.indptr * 2,
        times=np.repeat(parts.test.times, 2),
        sources=np.repeat(parts.test.sources, 2),
    )
    assert ("duplicated pairs", "warn") in severe(audit(replace(parts, test=again)))


def test_feature_fitted_on_held_out_rows():
    parts = split(shopping())
    good = FeatureFit("price", parts.train.source)
    assert severe(audit(parts, features=[good])) == []
    bad = FeatureFit("rating mean", np.arange(parts.train.source.max() + 1))
    found = failures(audit(parts, features=[good, bad]))
    assert [finding.evidence["feature"] for finding in found] == ["rating mean"]


def test_id_order_inside_ties_fails_when_rows_are_the_order():
    found = audit(split(shopping("rows", sort_ids=True)))
    assert ("tie order", "fail") in severe(found)
    inside = next(f for f in found if "inside ties" in f.message)
    assert inside.evidence["share"] == 1.0
    assert any("step into the test target" in finding.message for finding in failures(found))


def test_id_order_inside_ties_is_only_said_when_ties_are_hashed():
    found = audit(split(shopping("hash", sort_ids=True)))
    assert severe(found) == [("tie order", "warn")]


def test_an_unshuffled_order_that_claims_to_be_hashed_fails():
    rows = shopping("rows")  # ids say nothing, but the order is that of the rows
    found = failures(audit(split(replace(rows, ties="hash"))))
    assert found
    assert {finding.evidence["by"] for finding in found} == {"row number"}


def test_vouched_order_without_times_is_a_warning():
    rng = np.random.default_rng(0)
    item = np.sort(rng.permuted(np.tile(np.arange(50), (400, 1)), axis=1)[:, :8], axis=1)
    made = Interactions.from_arrays(np.repeat(np.arange(400), 8), item.ravel(), ties="rows")
    found = [finding for finding in audit(split(made)) if finding.check != "no training events"]
    assert found
    assert {finding.severity for finding in found} == {"warn"}


def test_repeats_that_are_asked_for_are_a_warning():
    rng = np.random.default_rng(0)
    made = Interactions.from_arrays(
        np.repeat(np.arange(50), 20), rng.integers(0, 8, 1000), np.tile(np.arange(20), 50)
    )
    found = severe(audit(split(made, SplitConfig(strategy="leave_two_out", repeats="keep"))))
    assert found
    assert {severity for _, severity in found} == {"warn"}


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 10), (10, 10), (5, 10), (60, 90), (0, 40)])
def test_exact_binomial(k, n):
    expected = binomtest(k, n).pvalue if n else 1.0
    assert two_sided_p(k, n) == pytest.approx(expected)


def test_numeric_text_is_ranked_as_numbers():
    made = Interactions.from_arrays([1, 1, 1], ["10", "9", "100"])
    assert made.items.tokens[np.argsort(id_ranks(made.items))].tolist() == ["9", "10", "100"]
