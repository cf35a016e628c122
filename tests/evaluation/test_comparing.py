"""Systems side by side, from real evaluations of made-up models."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from recengine.errors import DataError, UsageError
from recengine.evaluation import Evaluation, Protocol
from recengine.evaluation.comparing import System, compare_systems
from recengine.evaluation.statistics import crossed_test, look_levels, sign_flip

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


# --- what the runs do not allow is said, never guessed ---------------------------------------------


def test_missing_seeds_are_named_and_not_paired() -> None:
    a = system("a", 0.0)
    b = System.of("b", {seed: evaluation(0.01, seed) for seed in (0, 1, 3)})
    found = compare_systems([a, b], metrics=["ndcg@10"])
    assert "not shared" in found.pairs[0].test.method
    assert found.notes == ("the systems have different seeds (b lacks 2, 4): seeds are not paired",)


def test_one_run_is_noted() -> None:
    found = compare_systems([system("a", 0.0), system("b", 0.01, 1)], metrics=["ndcg@10"])
    assert any("b has one run" in told for told in found.notes)
    assert "repeat both systems" in found.pairs[0].verdict.sentence or found.pairs[0].detectable is None


def test_users_without_a_value_are_counted() -> None:
    a, b = system("a", 0.03), system("b", 0.0)
    table = b.scores["ndcg@10"].copy()
    table[[3, 7, 7], [0, 1, 2]] = np.nan
    b = System(b.name, b.users, b.seeds, {"ndcg@10": table}, b.protocol)
    found = compare_systems([a, b], metrics=["ndcg@10"])
    assert found.pairs[0].left_out == 2
    assert found.pairs[0].test.n_users == USERS - 2
    assert found.notes == ("ndcg@10: 2 users without a value in every run were left out",)
    empty = System(b.name, b.users, b.seeds, {"ndcg@10": np.full((USERS, 5), np.nan)}, b.protocol)
    with pytest.raises(DataError, match="fewer than two users"):
        compare_systems([a, empty], metrics=["ndcg@10"])


def test_a_metric_that_never_varies_is_noted() -> None:
    a, b = system("a", 0.0), system("b", 0.0)
    a = System(a.name, a.users, a.seeds, {"flat@10": np.ones((USERS, 5))}, a.protocol)
    b = System(b.name, b.users, b.seeds, {"flat@10": np.zeros((USERS, 5))}, b.protocol)
    found = compare_systems([a, b])
    assert "there is nothing to test" in found.notes[0]
    same = compare_systems([a, System("b", a.users, a.seeds, a.scores, a.protocol)])
    assert same.pairs[0].verdict.outcome == "equal"
    assert same.pairs[0].flip is None


def test_a_user_with_two_rows_is_refused() -> None:
    one = evaluation(0.0, 0)
    doubled = Evaluation(one.protocol, pl.concat([one.per_user, one.per_user.head(1)]))
    with pytest.raises(DataError, match="two rows"):
        System.of("a", {0: doubled})


def test_runs_of_one_system_on_other_users_say_how_many() -> None:
    with pytest.raises(DataError, match="100 users are in one of them only"):
        System.of("a", {0: evaluation(0.0, 0), 1: evaluation(0.0, 1, users=300)})


def test_levels_outside_zero_to_one_are_refused() -> None:
    with pytest.raises(UsageError, match="alpha"):
        compare_systems([system("a", 0.0), system("b", 0.0)], alpha=1.5)


# --- deterministic systems, decoding repeats, single seeds ------------------------------------------


def test_one_run_of_a_deterministic_system_stands_for_all_seeds() -> None:
    a = system("a", 0.03)
    fixed = System.of("fixed", {0: evaluation(0.0, 0)}, deterministic=True)
    repeated = System.of("fixed", dict.fromkeys(range(5), evaluation(0.0, 0)))
    once = compare_systems([a, fixed], metrics=["ndcg@10"]).pairs[0]
    assert once.test == compare_systems([a, repeated], metrics=["ndcg@10"]).pairs[0].test
    assert "crossed" in once.test.method
    assert once.detectable is not None


def test_two_deterministic_systems() -> None:
    a = System.of("a", {0: evaluation(0.03, 0)}, deterministic=True)
    b = System.of("b", {0: evaluation(0.0, 0)}, deterministic=True)
    new = compare_systems([a, b], metrics=["ndcg@10"]).pairs[0]
    assert "neither system depends on a seed" in new.test.method
    assert new.test.low < new.test.difference < new.test.high
    these = compare_systems([a, b], metrics=["ndcg@10"], target="fixed").pairs[0]
    assert these.test.low == these.test.high == new.test.difference
    assert these.verdict.outcome == "better"


def test_decoding_repeats_use_all_runs_of_both() -> None:
    a, b = system("a", 0.03, 3), system("b", 0.0, 5)
    pair = compare_systems([a, b], metrics=["ndcg@10"], repeats="decoding").pairs[0]
    means = a.scores["ndcg@10"].mean(axis=1) - b.scores["ndcg@10"].mean(axis=1)
    assert pair.test.difference == pytest.approx(means.mean())
    assert "nested" in pair.test.method


def test_share_of_single_seeds_that_mislead() -> None:
    found = sign_flip([1.0, 3.0], [0.0, 2.0])  # of 1-0, 1-2, 3-0, 3-2 one is negative
    assert found.share == 0.25
    assert found.expected == pytest.approx(float(stats.norm.cdf(-1 / 2)))
    assert sign_flip([1.0], [0.0, 0.5]).share == 0.0
    with pytest.raises(DataError, match="two runs"):
        sign_flip([1.0], [0.0])


def test_first_seeds_of_a_system() -> None:
    a = system("a", 0.0)
    assert a.first(2).seeds == (0, 1)
    np.testing.assert_array_equal(a.first(2).scores["ndcg@10"], a.scores["ndcg@10"][:, :2])


def test_looks_keep_the_level() -> None:
    """Three looks at growing seeds of two equal systems, stopping at the first claim: 5 % in all."""
    levels = look_levels([3, 5, 10])
    assert levels[-1] < 0.05
    assert (np.diff(levels) > 0).all()
    rng = np.random.default_rng(0)
    claimed = 0
    for _ in range(800):
        table = rng.normal(0, 0.005, (1, 10)) + rng.normal(0, 0.08, (200, 10))
        claimed += any(
            crossed_test(table[:, :n], target="fixed").p_value < level
            for n, level in zip((3, 5, 10), levels, strict=True)
        )
    assert claimed / 800 < 0.07
    with pytest.raises(UsageError, match="two runs"):
        look_levels([1, 5])
