"""Systems side by side, from real evaluations of made-up models."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from recengine.errors import DataError, UsageError
from recengine.evaluation import Evaluation, Protocol
from recengine.evaluation.comparing import System, compare_systems

USERS = 400


def evaluation(
    shift: float, seed: int, *, users: int = USERS, cutoffs: tuple[int, ...] = (10,)
) -> Evaluation:
    """Per-user scores: a user effect shared by all systems, a seed effect, noise, and the system's shift."""
    of_user = np.random.default_rng(0).normal(0.3, 0.1, USERS)[:users]
    generator = np.random.default_rng([seed, int(1000 * shift) % 997])
    scores = of_user + shift + generator.normal(0, 0.002) + generator.normal(0, 0.05, users)
    frame = pl.DataFrame(
        {
            "user": [f"u{i}" for i in range(users)],
            "row": np.arange(users),
            "n_history": np.full(users, 5),
            "n_targets": np.full(users, 1),
            "target_decile": np.full(users, 1),
            "ndcg@10": scores,
            "hr@10": (scores > 0.3).astype(float),
        }
    )
    return Evaluation(Protocol(cutoffs=cutoffs, data="d"), frame)


def system(name: str, shift: float, seeds: int = 5, **options: int) -> System:
    return System.of(name, {seed: evaluation(shift, seed, **options) for seed in range(seeds)})


def test_a_clear_winner_a_tie_and_their_sentences() -> None:
    found = compare_systems(
        [system("a", 0.03), system("b", 0.0), system("c", 0.0001)], metrics=["ndcg@10"], margin=0.02
    )
    verdicts = {(pair.first, pair.second): pair.verdict for pair in found.pairs}
    assert verdicts["a", "b"].outcome == "better"
    assert verdicts["b", "c"].outcome == "equal"
    assert "a is better than b on ndcg@10" in verdicts["a", "b"].sentence
    pair = found.pairs[0]
    assert pair.p_adjusted >= pair.test.p_value
    assert pair.detectable is not None
    assert 0 < pair.detectable < 0.03
    assert found.standings[0].noise is not None
    assert len(found.standings[0].runs) == 5


def test_one_run_says_so() -> None:
    found = compare_systems([system("a", 0.001, 1), system("b", 0.0, 1)], metrics=["ndcg@10"])
    assert "these two runs only" in found.pairs[0].test.method
    assert found.pairs[0].detectable is None


def test_other_seeds_are_not_paired() -> None:
    a = system("a", 0.0)
    b = System.of("b", {seed: evaluation(0.0, seed) for seed in range(5, 12)})
    assert "not shared" in compare_systems([a, b], metrics=["ndcg@10"]).pairs[0].test.method


def test_protocols_must_agree() -> None:
    with pytest.raises(UsageError, match="differ in cutoffs"):
        compare_systems([system("a", 0.0), system("b", 0.0, cutoffs=(20,))])


def test_users_must_agree_or_be_intersected() -> None:
    a, b = system("a", 0.0), system("b", 0.0, users=300)
    with pytest.raises(DataError, match="100 were not scored by all"):
        compare_systems([a, b])
    found = compare_systems([a, b], intersect=True)
    assert found.n_users == 300
    assert found.left_out == 100


def test_unknown_metrics_and_single_systems_are_refused() -> None:
    with pytest.raises(UsageError, match="not every system was measured on mrr@10"):
        compare_systems([system("a", 0.0), system("b", 0.0)], metrics=["mrr@10"])
    with pytest.raises(UsageError, match="at least two"):
        compare_systems([system("a", 0.0)])


def test_a_constant_metric_is_stated() -> None:
    a, b = system("a", 0.0), system("b", 0.0)
    ones = np.ones((USERS, 5))
    a = System(a.name, a.users, a.seeds, {"flat@10": ones}, a.protocol)
    b = System(b.name, b.users, b.seeds, {"flat@10": ones}, b.protocol)
    (pair,) = compare_systems([a, b]).pairs
    assert pair.test.p_value == 1.0
    assert pair.test.difference == 0.0
    assert np.isnan(pair.effect_size)
