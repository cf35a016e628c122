"""Definitions: golden cases by hand, ranx and scikit-learn on random input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recengine.contracts.metric import CatalogueMetric, Metric, RankedLists
from recengine.data import Interactions
from recengine.errors import DataError, UsageError
from recengine.evaluation import built_in_metrics, popularity_deciles, resolve_metrics
from recengine.evaluation.clicks import auc, gauc, log_loss
from recengine.evaluation.evaluator import hits_of


def lists(
    items: list[list[int]], targets: list[list[int]], popularity: list[float], **more: object
) -> RankedLists:
    indptr = np.concatenate([[0], np.cumsum([len(t) for t in targets])]).astype(np.int64)
    flat = np.array([t for row in targets for t in sorted(row)], np.int64)
    ids = np.array(items, np.int64)
    hits = hits_of(ids, flat, indptr, len(popularity))
    return RankedLists(
        ids,
        hits,
        np.diff(indptr),
        np.array(popularity),
        len(popularity),
        flat,
        indptr,
        **more,  # type: ignore[arg-type]
    )


def value(name: str, given: RankedLists, k: int) -> NDArray[np.float64]:
    metric = built_in_metrics()[name]
    assert isinstance(metric, Metric)
    return metric.per_user(given, k)


GOLDEN = lists(
    # user 0: targets 1, 4 at ranks 2 and 4; user 1: none found; user 2: no targets; user 3: a short list.
    [[0, 1, 2, 4], [0, 1, 2, 3], [0, 1, 2, 3], [5, 3, -1, -1]],
    [[4, 1], [9], [], [5, 3, 8]],
    [40, 20, 10, 10, 8, 6, 3, 1, 1, 1],
)


@pytest.mark.parametrize(
    ("name", "k", "expected"),
    [
        ("hr", 4, [1, 0, math.nan, 1]),
        ("hr", 1, [0, 0, math.nan, 1]),
        ("recall", 4, [1, 0, math.nan, 2 / 3]),
        ("recall", 2, [1 / 2, 0, math.nan, 2 / 3]),
        ("precision", 4, [2 / 4, 0, math.nan, 2 / 4]),
        ("mrr", 4, [1 / 2, 0, math.nan, 1]),
        ("map", 4, [(1 / 2 + 2 / 4) / 2, 0, math.nan, (1 + 1) / 3]),
        ("map", 2, [(1 / 2) / 2, 0, math.nan, (1 + 1) / 2]),
        (
            "ndcg",
            4,
            [
                (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3)),
                0,
                math.nan,
                (1 + 1 / math.log2(3)) / (1 + 1 / math.log2(3) + 1 / 2),
            ],
        ),
        ("average_popularity", 2, [30, 30, 30, 8]),
        ("average_popularity", 4, [78 / 4, 80 / 4, 80 / 4, 8]),
        ("novelty", 1, [-math.log2(40 / 100)] * 3 + [-math.log2(6 / 100)]),
    ],
)
def test_golden(name: str, k: int, expected: list[float]) -> None:
    np.testing.assert_allclose(value(name, GOLDEN, k), expected, rtol=1e-15)


def test_cut_off_beyond_the_list() -> None:
    np.testing.assert_allclose(value("precision", GOLDEN, 8), np.array([2, 0, math.nan, 2]) / 8)
    assert value("ndcg", GOLDEN, 8)[1] == 0


def test_tail_ndcg_counts_the_rarest_tenth_only() -> None:
    # Items by rising popularity: 7 (ties by row) is the only one of the rarest tenth of ten items.
    assert popularity_deciles(GOLDEN.popularity).tolist() == [9, 8, 6, 7, 5, 4, 3, 0, 1, 2]
    given = lists([[0, 7, 1], [0, 1, 2]], [[0, 7], [0]], [40, 20, 10, 10, 8, 6, 3, 1, 1, 1])
    np.testing.assert_allclose(value("tail_ndcg", given, 3), [1 / math.log2(3), math.nan])


def test_diversity_by_hand() -> None:
    # takers: item 0 by users 0, 1; item 1 by 0, 1; item 2 by 2 only; item 3 by nobody
    history = Interactions.from_arrays(
        np.array([0, 1, 0, 1, 2]), np.array([0, 0, 1, 1, 2]), item_vocabulary=None
    )
    given = lists([[0, 1], [0, 2], [0, -1]], [[0], [0], [0]], [2, 2, 1], history=history)
    np.testing.assert_allclose(value("diversity", given, 2), [0, 1, math.nan])


def test_catalogue_metrics_by_hand() -> None:
    known = built_in_metrics()
    coverage, gini = known["coverage"], known["gini"]
    assert isinstance(coverage, CatalogueMetric)
    assert isinstance(gini, CatalogueMetric)
    assert coverage.over_catalogue(np.array([3, 0, 1, 0])) == 0.5
    assert gini.over_catalogue(np.array([2, 2, 2, 2])) == 0
    assert gini.over_catalogue(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)
    assert math.isnan(gini.over_catalogue(np.zeros(3, np.int64)))


@st.composite
def random_lists(draw: st.DrawFn) -> tuple[RankedLists, int]:
    seed = draw(st.integers(0, 2**32 - 1))
    users, n_items, length = draw(st.integers(1, 12)), draw(st.integers(5, 40)), draw(st.integers(1, 20))
    rng = np.random.default_rng(seed)
    length = min(length, n_items)
    items = [rng.permutation(n_items)[:length].tolist() for _ in range(users)]
    targets = [rng.choice(n_items, rng.integers(1, 6), replace=False).tolist() for _ in range(users)]
    return lists(items, targets, rng.integers(1, 9, n_items).tolist()), draw(st.integers(1, 20))


@pytest.fixture(scope="module")
def ranx_metrics() -> object:
    return pytest.importorskip("ranx")


@settings(max_examples=25, deadline=None)
@given(given=random_lists())
def test_agree_with_ranx(ranx_metrics: object, given: tuple[RankedLists, int]) -> None:
    ranked, k = given
    assert ranked.targets is not None
    assert ranked.indptr is not None
    truth = {
        str(u): {str(t): 1 for t in ranked.targets[ranked.indptr[u] : ranked.indptr[u + 1]]}
        for u in range(ranked.items.shape[0])
    }
    run = {str(u): {str(i): 1000.0 - r for r, i in enumerate(row)} for u, row in enumerate(ranked.items)}
    names = {"hr": "hit_rate", "recall": "recall", "precision": "precision", "ndcg": "ndcg", "mrr": "mrr"}
    qrels, results = ranx_metrics.Qrels(truth), ranx_metrics.Run(run)  # type: ignore[attr-defined]
    for ours, theirs in {**names, "map": "map"}.items():
        ranx_metrics.evaluate(qrels, results, f"{theirs}@{k}", make_comparable=True)  # type: ignore[attr-defined]
        scored = results.scores[f"{theirs}@{k}"]
        wanted = np.array([scored[str(u)] for u in range(ranked.items.shape[0])])
        if ours == "map":  # ranx divides by T, we by min(T, k)
            wanted = wanted * ranked.n_targets / np.minimum(ranked.n_targets, k)
        np.testing.assert_allclose(value(ours, ranked, k), wanted, rtol=1e-9, atol=1e-12, err_msg=ours)


@settings(max_examples=25, deadline=None)
@given(given=random_lists())
def test_ndcg_agrees_with_scikit_learn(given: tuple[RankedLists, int]) -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    ranked, k = given
    assert ranked.targets is not None
    assert ranked.indptr is not None
    for u, row in enumerate(ranked.items):
        relevance, score = np.zeros(ranked.n_items), np.zeros(ranked.n_items)
        relevance[ranked.targets[ranked.indptr[u] : ranked.indptr[u + 1]]] = 1
        score[row] = np.arange(len(row), 0, -1)
        if k <= len(row):  # beyond the list scikit-learn shares the gain among tied items
            wanted = sklearn_metrics.ndcg_score([relevance], [score], k=k)
            assert value("ndcg", ranked, k)[u] == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 200), levels=st.integers(1, 20))
def test_click_metrics_agree_with_scikit_learn(seed: int, n: int, levels: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, n), rng.integers(0, levels, n) / levels
    groups = rng.integers(0, 5, n)
    if 0 < labels.sum() < n:
        assert auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)
        assert log_loss(labels, scores, clip=1e-6) == pytest.approx(
            metrics.log_loss(labels, np.clip(scores, 1e-6, 1 - 1e-6)), rel=1e-9
        )
    else:
        assert math.isnan(auc(labels, scores))
    parts = [(groups == g) for g in range(5) if 0 < labels[groups == g].sum() < (groups == g).sum()]
    if parts:
        wanted = sum(p.sum() * metrics.roc_auc_score(labels[p], scores[p]) for p in parts) / sum(
            p.sum() for p in parts
        )
        assert gauc(labels, scores, groups) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "scores"), [([0, 2], [0.1, 0.2]), ([0, 1], [0.1]), ([0, 1], [0.1, math.nan]), ([[0]], [[0.1]])]
)
def test_bad_click_input(labels: object, scores: object) -> None:
    with pytest.raises(DataError):
        auc(labels, scores)  # type: ignore[arg-type]


def test_resolving_names() -> None:
    columns = resolve_metrics(["ndcg", "hr@5", "ndcg@10"], (10, 20))
    assert [(metric.name, k) for metric, k in columns] == [("ndcg", 10), ("ndcg", 20), ("hr", 5)]
    with pytest.raises(UsageError, match="did you mean 'ndcg'"):
        resolve_metrics(["ndgc"], (10,))
    with pytest.raises(UsageError, match="no metric"):
        resolve_metrics([object()], (10,))  # type: ignore[list-item]
    for bad in (0, 1001, 2.5, "x"):
        with pytest.raises(UsageError, match="cut-off"):
            resolve_metrics(["ndcg"], (bad,))  # type: ignore[arg-type]
