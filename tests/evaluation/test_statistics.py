"""Statistics of repeated runs against closed forms, enumeration, published tables and simulation."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recengine.errors import DataError, UsageError
from recengine.evaluation import statistics as s

# --- pass@k and its graded twins ------------------------------------------------------------------


def test_closed_form_of_four_runs_two_successes() -> None:
    assert s.pass_at_k([2], 4, 2)[0] == pytest.approx(5 / 6, abs=1e-15)
    assert s.pass_hat_k([2], 4, 2)[0] == pytest.approx(1 / 6, abs=1e-15)


@pytest.mark.parametrize("n", range(1, 9))
def test_every_estimator_equals_the_enumeration_of_all_subsets(n: int) -> None:
    generator = np.random.default_rng(n)
    graded = generator.random((3, n))
    for k in range(1, n + 1):
        subsets = [list(chosen) for chosen in combinations(range(n), k)]
        best = np.mean([graded[:, chosen].max(axis=1) for chosen in subsets], axis=0)
        worst = np.mean([graded[:, chosen].min(axis=1) for chosen in subsets], axis=0)
        np.testing.assert_allclose(s.best_at_k(graded, k), best, rtol=1e-12)
        np.testing.assert_allclose(s.worst_at_k(graded, k), worst, rtol=1e-12)
        for c in range(n + 1):
            runs = np.array([1.0] * c + [0.0] * (n - c))
            any_of = np.mean([runs[chosen].max() for chosen in subsets])
            all_of = np.mean([runs[chosen].min() for chosen in subsets])
            assert s.pass_at_k([c], n, k)[0] == pytest.approx(any_of, abs=1e-12)
            assert s.pass_hat_k([c], n, k)[0] == pytest.approx(all_of, abs=1e-12)
            assert s.best_at_k(runs[None], k)[0] == pytest.approx(any_of, abs=1e-12)
            assert s.worst_at_k(runs[None], k)[0] == pytest.approx(all_of, abs=1e-12)


@given(st.integers(1, 40), st.data())
def test_order_of_the_envelope(n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n))
    at = [s.pass_at_k([c], n, k)[0] for k in range(1, n + 1)]
    hat = [s.pass_hat_k([c], n, k)[0] for k in range(1, n + 1)]
    assert at[0] == pytest.approx(c / n, abs=1e-12)
    assert hat[0] == pytest.approx(c / n, abs=1e-12)
    assert (np.diff(at) >= -1e-12).all()
    assert (np.diff(hat) <= 1e-12).all()


@pytest.mark.parametrize("k", [0, 5])
def test_k_beyond_the_runs_is_refused(k: int) -> None:
    with pytest.raises(UsageError, match="4 were made"):
        s.pass_at_k([1], 4, k)


def test_counts_that_are_no_counts_are_refused() -> None:
    with pytest.raises(DataError, match="whole numbers"):
        s.pass_at_k([1.5], 4, 2)


GOLDEN = {  # pass@1, SD of runs, pass@5, pass^5, pass@10, pass^10, ICC; re-analysis of 500 tasks x 10 runs
    "Qwen_Qwen3-32B": (16.38, 0.75, 29.1, 6.3, 34.2, 4.2, 0.60),
    "Qwen_Qwen3-32B-temp0": (16.36, 1.17, 28.8, 6.8, 33.8, 5.0, 0.61),
    "agentica-org_DeepSWE-Preview": (31.38, 1.02, 51.6, 11.8, 58.0, 6.4, 0.55),
    "agentica-org_DeepSWE-Preview-temp0": (20.36, 0.96, 36.2, 7.3, 42.4, 4.4, 0.56),
    "mistral_devstral-2512": (63.54, 1.13, 76.2, 49.1, 79.4, 43.2, 0.72),
    "mistral_devstral-2512-temp0": (63.82, 1.64, 76.8, 48.4, 80.0, 42.0, 0.70),
}


@pytest.mark.data
@pytest.mark.parametrize("system", GOLDEN)
def test_golden_table_of_stored_counts(system: str, shared_data: Callable[[str], Path]) -> None:
    def column(name: str) -> np.ndarray:
        with shared_data(f"agent_runs/{name}").open() as file:
            return np.array([float(row[system]) for row in csv.DictReader(file)])

    counts = column("swebench_verified_nano_success_counts_of_10.csv").astype(int)
    runs = column("per_run_pass1.csv")
    pass1, sd, pass5, hat5, pass10, hat10, icc = GOLDEN[system]
    assert round(100 * counts.mean() / 10, 2) == pass1
    assert round(float(runs.std(ddof=1)), 2) == sd
    assert round(100 * s.pass_at_k(counts, 10, 5).mean(), 1) == pass5
    assert round(100 * s.pass_hat_k(counts, 10, 5).mean(), 1) == hat5
    assert round(100 * s.pass_at_k(counts, 10, 10).mean(), 1) == pass10
    assert round(100 * s.pass_hat_k(counts, 10, 10).mean(), 1) == hat10
    # counts carry no run labels: the one-way intraclass correlation of 0/1 scores
    p = counts / 10
    within = 10 / 9 * np.mean(p * (1 - p))
    between = p.var(ddof=1) - within / 10
    assert round(between / (between + within), 2) == icc


def counts_by_item(path: Path, item: str, score: str) -> np.ndarray:
    """Successes of each item over all runs of a compressed table of runs."""
    counts: dict[str, float] = {}
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            counts[row[item]] = counts.get(row[item], 0.0) + float(row[score])
    return np.array(list(counts.values()))


@pytest.mark.data
def test_taubench_trials(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("agent_runs/taubench_airline_gpt4o_trials.csv.gz")
    counts = counts_by_item(path, "task_id", "reward")
    assert counts.size == 50
    assert s.pass_at_k(counts, 4, 1).mean() == pytest.approx(0.42, abs=1e-12)
    assert s.pass_hat_k(counts, 4, 4).mean() < 0.42 < s.pass_at_k(counts, 4, 4).mean()


@pytest.mark.data
def test_swebench_lite_repeats(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("agent_runs/swebench_lite_sweagent_runs.csv.gz")
    counts = counts_by_item(path, "instance_id", "resolved_old_eval")
    assert counts.size == 300
    assert counts.sum() == 28 + 33 + 28
    assert s.pass_at_k(counts, 3, 3).sum() == (counts > 0).sum()
    assert s.pass_hat_k(counts, 3, 3).sum() == (counts == 3).sum()
    assert s.pass_at_k(counts, 3, 1).mean() == pytest.approx(89 / 900)


def test_grader_noise_counts_pairs() -> None:
    noise = s.grader_noise(["a", "a", "a", "b"], ["x", "x", "x", "x"], [1, 0, 1, 1])
    assert (noise.identical_pairs, noise.disagreeing_pairs) == (3, 2)


# --- components and tests of a difference ---------------------------------------------------------


def draw(generator: np.random.Generator, users: int, seeds: int, seed_sd: float) -> np.ndarray:
    """Per-user differences without a true difference: user x algorithm .06, seed main effect, noise .08."""
    a = generator.normal(0, 0.06, (users, 1))
    b = generator.normal(0, seed_sd, (1, seeds))
    return a + b + generator.normal(0, 0.08 * np.sqrt(2), (users, seeds))


def test_components_recover_what_was_planted() -> None:
    generator = np.random.default_rng(0)
    table = (
        generator.normal(0, 2, (4000, 1))
        + generator.normal(0, 1, (1, 300))
        + generator.normal(0, 3, (4000, 300))
    )
    parts = s.variance_components(table)
    assert parts.unit == pytest.approx(4, rel=0.1)
    assert parts.run == pytest.approx(1, rel=0.25)
    assert parts.error == pytest.approx(9, rel=0.02)
    assert parts.icc == pytest.approx(4 / 13, rel=0.1)


def test_components_equal_the_textbook_sums_of_squares() -> None:
    table = np.array([[1.0, 2.0], [3.0, 5.0], [4.0, 4.0]])
    parts = s.variance_components(table)
    assert parts.ms_unit == pytest.approx(25 / 6)
    assert parts.ms_run == pytest.approx(1.5)
    total = ((table - table.mean()) ** 2).sum()
    assert 2 * parts.ms_unit + parts.ms_run + 2 * parts.ms_error == pytest.approx(total)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("seed_sd", [0.0, 0.002, 0.005])
def test_level_of_the_crossed_test(seeds: int, seed_sd: float) -> None:
    """Nominal 5 %: the crossed test stays within 2 to 7 % (band of the simulation included)."""
    generator = np.random.default_rng(int(1000 * seed_sd) + seeds)
    repeats = 600
    rejected = sum(
        s.crossed_test(draw(generator, 500, seeds, 2 * seed_sd)).p_value < 0.05 for _ in range(repeats)
    )
    slack = 2.5 * np.sqrt(0.05 * 0.95 / repeats)
    assert rejected / repeats < 0.07 + slack


def test_usual_tests_fail_where_the_crossed_test_holds() -> None:
    generator = np.random.default_rng(7)
    pooled = crossed = 0
    for _ in range(300):
        table = draw(generator, 500, 5, 0.01)
        pooled += stats.ttest_1samp(table.ravel(), 0).pvalue < 0.05
        crossed += s.crossed_test(table).p_value < 0.05
    assert pooled / 300 > 0.2
    assert crossed / 300 < 0.1


def test_interval_of_the_crossed_test_covers() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        test = s.crossed_test(0.01 + draw(generator, 300, 5, 0.01))
        covered += test.low <= 0.01 <= test.high
    assert covered / 400 > 0.92


def test_fixed_users_leave_the_users_out_of_the_error() -> None:
    table = draw(np.random.default_rng(1), 400, 6, 0.004)
    fixed, population = s.crossed_test(table, target="fixed"), s.crossed_test(table)
    means = table.mean(axis=0)
    expected = stats.ttest_1samp(means, 0)
    assert fixed.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert fixed.standard_error < population.standard_error


def test_nested_test_equals_the_t_test_of_user_means() -> None:
    table = np.random.default_rng(5).normal(0.1, 1, (50, 4))
    assert s.nested_test(table).p_value == pytest.approx(stats.ttest_1samp(table.mean(axis=1), 0).pvalue)


def test_unpaired_seeds_hold_their_level() -> None:
    generator = np.random.default_rng(11)
    rejected = 0
    for _ in range(400):
        user = generator.normal(0, 0.2, (300, 1))
        a = user + generator.normal(0, 0.005, (1, 5)) + generator.normal(0, 0.08, (300, 5))
        b = user + generator.normal(0, 0.005, (1, 7)) + generator.normal(0, 0.08, (300, 7))
        rejected += s.unpaired_crossed_test(a, b).p_value < 0.05
    assert rejected / 400 < 0.08


def test_constant_differences_are_stated_not_divided_by_zero() -> None:
    same = s.crossed_test(np.zeros((10, 3)))
    assert (same.p_value, same.low, same.high) == (1.0, 0.0, 0.0)
    shifted = s.crossed_test(np.full((10, 3), 0.5))
    assert shifted.p_value == 0.0


def test_bad_tables_are_refused() -> None:
    with pytest.raises(DataError, match="one run"):
        s.crossed_test(np.zeros((5, 1)))
    with pytest.raises(DataError, match="unit 2, run 1"):
        s.crossed_test(np.array([[0.0, 1], [0, 1], [0, np.nan]]))
    with pytest.raises(DataError, match="different users"):
        s.unpaired_crossed_test(np.zeros((5, 2)), np.zeros((4, 2)))


# --- bootstrap, corrections -----------------------------------------------------------------------


def test_bootstrap_agrees_with_the_crossed_standard_error_and_ignores_threads() -> None:
    table = draw(np.random.default_rng(2), 2000, 20, 0.02)
    one = s.crossed_bootstrap({"x": table, "y": 2 * table}, draws=2000, threads=1)
    two = s.crossed_bootstrap({"x": table, "y": 2 * table}, draws=2000, threads=2)
    np.testing.assert_array_equal(one.draws["x"], two.draws["x"])
    np.testing.assert_allclose(one.draws["y"], 2 * one.draws["x"], rtol=1e-12)
    assert one.draws["x"].std() == pytest.approx(s.crossed_test(table).standard_error, rel=0.15)
    assert one.low["x"] < one.estimate["x"] < one.high["x"]


def test_corrections_by_hand() -> None:
    np.testing.assert_allclose(s.holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(s.benjamini_hochberg([0.01, 0.04, 0.03]), [0.03, 0.04, 0.04])


# --- planning -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sigma", "delta", "normal", "exact"),
    [
        (1.0, 1, 16, 17), (1.0, 2, 4, 6), (1.0, 3, 2, 4), (1.0, 5, 1, 3),
        (1.5, 1, 36, 37), (1.5, 2, 9, 10), (1.5, 3, 4, 6), (1.5, 5, 2, 3),
        (1.8, 1, 51, 52), (1.8, 2, 13, 14), (1.8, 3, 6, 7), (1.8, 5, 3, 4),
    ],
)  # fmt: skip
def test_runs_per_arm_of_the_published_table(sigma: float, delta: float, normal: int, exact: int) -> None:
    assert s.runs_per_arm(sigma, delta, exact=False) == normal
    assert s.runs_per_arm(sigma, delta) == exact


def test_power_formula_against_simulation() -> None:
    generator = np.random.default_rng(4)
    pilot = s.variance_components(draw(np.random.default_rng(1), 20_000, 200, 0.004))
    for delta, seeds in [(0.006, 5), (0.006, 10), (0.01, 4)]:
        predicted = s.power_of_crossed_test(pilot, delta, users=800, seeds=seeds)
        found = np.mean(
            [s.crossed_test(delta + draw(generator, 800, seeds, 0.004)).p_value < 0.05 for _ in range(800)]
        )
        # three points, and what 800 repetitions leave open
        assert abs(predicted - found) < 0.03 + 2.5 * np.sqrt(found * (1 - found) / 800)


def test_plan_names_seeds_or_says_that_users_are_missing() -> None:
    parts = s.variance_components(draw(np.random.default_rng(0), 2000, 10, 0.002))
    made = s.plan(parts, 0.006, cost_per_run=3.0)
    assert made.seeds is not None
    assert made.cost == 6.0 * made.seeds
    assert s.power_of_crossed_test(parts, 0.006, users=2000, seeds=made.seeds) >= 0.8
    assert s.power_of_crossed_test(parts, 0.006, users=2000, seeds=max(2, made.seeds - 1)) < 0.8
    hopeless = s.plan(parts, 0.0005)
    assert hopeless.seeds is None
    assert hopeless.users_needed is None or hopeless.users_needed > 2000
    effect = s.minimum_detectable_effect(parts, users=2000, seeds=5)
    assert s.power_of_crossed_test(parts, effect, users=2000, seeds=5) == pytest.approx(0.8, abs=1e-6)


def test_plan_refuses_nonsense() -> None:
    parts = s.variance_components(draw(np.random.default_rng(0), 50, 4, 0.002))
    with pytest.raises(UsageError, match="positive"):
        s.plan(parts, 0.0)
    with pytest.raises(UsageError, match="probabilities"):
        s.plan(parts, 0.1, power=1.2)


def test_sequential_bounds() -> None:
    np.testing.assert_allclose(s.spending_bounds([1.0]), [1.959964], atol=1e-5)
    # two equal looks, two-sided 5 %, as the usual tables print them
    np.testing.assert_allclose(s.spending_bounds([0.5, 1.0]), [2.9626, 1.9686], atol=2e-3)
    np.testing.assert_allclose(s.spending_bounds([0.5, 1.0], spending="pocock"), [2.1570, 2.2010], atol=2e-3)
    path = np.random.default_rng(0).normal(size=(200_000, 4)).cumsum(axis=1) / np.sqrt(np.arange(1, 5))
    crossed = (np.abs(path) > s.spending_bounds([0.25, 0.5, 0.75, 1.0])).any(axis=1).mean()
    assert crossed == pytest.approx(0.05, abs=0.002)


# --- verdicts, stability --------------------------------------------------------------------------


def test_verdicts() -> None:
    generator = np.random.default_rng(0)
    clear = s.crossed_test(0.05 + draw(generator, 500, 5, 0.001))
    nothing = s.crossed_test(draw(generator, 500, 5, 0.001))
    named = {"metric": "ndcg@10", "first": "A", "second": "B"}
    assert s.verdict(clear, **named).outcome == "better"
    assert s.verdict(s.crossed_test(-0.05 + draw(generator, 500, 5, 0.001)), **named).outcome == "worse"
    assert s.verdict(nothing, **named, margin=0.05).outcome == "equal"
    undecided = s.verdict(nothing, **named, margin=1e-6, more="About 40 seeds would tell.")
    assert undecided.outcome == "undecided"
    assert "40 seeds" in undecided.sentence


def test_noise_floor_flip_probability() -> None:
    floor = s.noise_floor([0.0, 1.0, 2.0], delta=np.sqrt(2))
    assert floor.sd == 1.0
    assert floor.sign_flip == pytest.approx(float(stats.norm.cdf(-1)))
    with pytest.raises(DataError):
        s.noise_floor([1.0])


def test_overlap_of_lists() -> None:
    assert s.rank_biased_overlap([1, 2, 3], [1, 2, 3]) == pytest.approx(1.0)
    assert s.rank_biased_overlap([1, 2], [3, 4]) == 0.0
    # A_1 = 0, A_2 = 1: p^2 + (1 - p)/p * p^2 = p
    assert s.rank_biased_overlap([1, 2], [2, 1], p=0.7) == pytest.approx(0.7)
    assert s.jaccard([1, 2], [2, 3]) == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="twice"):
        s.rank_biased_overlap([1, 1], [1, 2])


@settings(max_examples=30)
@given(st.permutations(range(6)), st.permutations(range(6)))
def test_overlap_is_symmetric_and_bounded(a: list[int], b: list[int]) -> None:
    value = s.rank_biased_overlap(a, b)
    assert value == pytest.approx(s.rank_biased_overlap(b, a))
    assert 0 <= value <= 1 + 1e-12


# --- the same cases in statsmodels ------------------------------------------------------------------


def test_power_and_corrections_agree_with_statsmodels() -> None:
    power = pytest.importorskip("statsmodels.stats.power")
    multiple = pytest.importorskip("statsmodels.stats.multitest")
    for sigma in (1.0, 1.5, 1.8):
        for delta in (1.0, 2.0, 3.0, 5.0):
            exact = power.TTestIndPower().solve_power(delta / sigma, alpha=0.05, power=0.8)
            assert s.runs_per_arm(sigma, delta) == max(2, int(np.ceil(exact)))
    p = np.random.default_rng(0).random(20) ** 3
    np.testing.assert_allclose(s.holm(p), multiple.multipletests(p, method="holm")[1])
    np.testing.assert_allclose(s.benjamini_hochberg(p), multiple.multipletests(p, method="fdr_bh")[1])


def test_item_bootstrap_gives_the_published_interval_of_a_mean() -> None:
    """Twenty items, half of them solved: expanded percentiles come near Student's t, plain ones do not."""
    values = np.repeat([0.0, 1.0], 10)
    found = s.item_bootstrap(values, draws=40_000)
    half = float(stats.t.ppf(0.975, 19)) * float(values.std(ddof=1)) / np.sqrt(20)
    assert found.high - 0.5 == pytest.approx(half, abs=0.03)
    plain = float(stats.norm.ppf(0.975)) * float(values.std()) / np.sqrt(20)
    assert found.high - 0.5 > plain
