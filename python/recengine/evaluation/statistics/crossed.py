"""Tests of a difference between two systems scored on the same users over several seeds.

The main effect of a seed is common to all users: it does not average out with more users, and every test
that treats users (or user-seed pairs) as the sample rejects true null hypotheses far too often. The
two-way crossed test takes users and seeds as two crossed samples and holds its level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from recengine.errors import DataError
from recengine.evaluation.statistics.components import VarianceComponents, variance_components
from recengine.evaluation.statistics.scores import score_matrix

Target = Literal["population", "fixed"]


@dataclass(frozen=True)
class DifferenceTest:
    """A difference A - B with its t test and interval.

    target: 'population' (new users of the same kind) or 'fixed' (these very users).
    method: which test it was, in words that a report prints.
    """

    difference: float
    standard_error: float
    df: float
    statistic: float
    p_value: float
    low: float
    high: float
    confidence: float
    n_users: int
    n_seeds: int
    target: Target
    method: str


def t_test_of(
    difference: float,
    variance: float,
    df: float,
    *,
    n_users: int,
    n_seeds: int,
    target: Target,
    method: str,
    confidence: float = 0.95,
) -> DifferenceTest:
    """The t test of an estimate whose variance has ``df`` degrees of freedom.

    A variance of exactly zero (two systems that never differ, or always by the same amount) gives p = 1
    for a difference of zero and p = 0 otherwise.
    """
    error = float(np.sqrt(variance))
    if error == 0.0:
        statistic = 0.0 if difference == 0.0 else float(np.copysign(np.inf, difference))
        p_value, half = (1.0 if difference == 0.0 else 0.0), 0.0
    else:
        statistic = difference / error
        p_value = float(2 * stats.t.sf(abs(statistic), df))
        half = float(stats.t.ppf(0.5 + confidence / 2, df)) * error
    return DifferenceTest(
        difference, error, df, statistic, p_value, difference - half, difference + half,
        confidence, n_users, n_seeds, target, method,
    )  # fmt: skip


def crossed_test(
    differences: ArrayLike, *, target: Target = "population", confidence: float = 0.95
) -> DifferenceTest:
    """Two-way crossed t test of D[user, seed] = A - B, seeds shared by both systems.

    population: v = max(MS_u + MS_s - MS_e, MS_u, MS_s)/(U S), degrees of freedom after Satterthwaite,
    (MS_u + MS_s - MS_e)^2 / (MS_u^2/(U-1) + MS_s^2/(S-1) + MS_e^2/((U-1)(S-1))).
    fixed: the users are the whole population, v = MS_s/(U S) with S - 1 degrees of freedom.

    Raises DataError for a single seed (use single_run_test, which says what it cannot show).
    """
    parts = variance_components(differences)
    users, seeds = parts.n_units, parts.n_runs
    cells = users * seeds
    if target == "fixed":
        variance, df = parts.ms_run / cells, float(seeds - 1)
    else:
        combined = parts.ms_unit + parts.ms_run - parts.ms_error
        variance = max(combined, parts.ms_unit, parts.ms_run) / cells
        df = _satterthwaite(parts, combined)
    return t_test_of(
        parts.mean, variance, df, n_users=users, n_seeds=seeds, target=target,
        method="two-way crossed t (users x seeds)", confidence=confidence,
    )  # fmt: skip


def _satterthwaite(parts: VarianceComponents, combined: float) -> float:
    users, seeds = parts.n_units, parts.n_runs
    spread = (
        parts.ms_unit**2 / (users - 1)
        + parts.ms_run**2 / (seeds - 1)
        + parts.ms_error**2 / ((users - 1) * (seeds - 1))
    )
    most = float((users - 1) * seeds)
    return float(np.clip(combined**2 / spread, 1.0, most)) if spread > 0 else most


def unpaired_crossed_test(
    first: ArrayLike, second: ArrayLike, *, target: Target = "population", confidence: float = 0.95
) -> DifferenceTest:
    """The same question when the seeds of A and B are different things (other split streams, other counts).

    v = Var_u(mean_s A - mean_s B)/U + sum over both systems of max(0, MS_s - MS_e)/(U S), or, for fixed
    users, the sum of MS_s/(U S). Raises DataError when the users differ or a system has one run.
    """
    a, b = score_matrix(first, name="first"), score_matrix(second, name="second")
    if a.shape[0] != b.shape[0]:
        raise DataError(
            "the two systems were scored on different users",
            found=f"{a.shape[0]} and {b.shape[0]} users",
            expected="the same users in the same order",
            fix="compare on the intersection of the users",
        )
    users = a.shape[0]
    of_a, of_b = variance_components(a), variance_components(b)
    terms: list[tuple[float, float]] = []
    for parts in (of_a, of_b):
        cells = parts.n_units * parts.n_runs
        mean_square = parts.ms_run if target == "fixed" else max(0.0, parts.ms_run - parts.ms_error)
        terms.append((mean_square / cells, float(parts.n_runs - 1)))
    if target == "population":
        by_user = a.mean(axis=1) - b.mean(axis=1)
        terms.append((float(by_user.var(ddof=1)) / users, float(users - 1)))
    variance = sum(value for value, _ in terms)
    spread = sum(value**2 / df for value, df in terms)
    df = variance**2 / spread if spread > 0 else float(users - 1)
    return t_test_of(
        of_a.mean - of_b.mean, variance, max(1.0, df), n_users=users, n_seeds=min(of_a.n_runs, of_b.n_runs),
        target=target, method="two-way crossed t, seeds not shared", confidence=confidence,
    )  # fmt: skip


def nested_test(differences: ArrayLike, *, confidence: float = 0.95) -> DifferenceTest:
    """D[user, repeat] where repeats are nested in users (decoding repeats): t over the users' means."""
    table = score_matrix(differences)
    by_user = table.mean(axis=1)
    users = by_user.shape[0]
    return t_test_of(
        float(by_user.mean()), float(by_user.var(ddof=1)) / users, float(users - 1), n_users=users,
        n_seeds=table.shape[1], target="population", method="t over users, repeats nested",
        confidence=confidence,
    )  # fmt: skip


def single_run_test(differences: ArrayLike, *, confidence: float = 0.95) -> DifferenceTest:
    """D[user] of one run each: what can be said of these two runs, nothing of another seed."""
    column = np.asarray(differences, dtype=np.float64).reshape(-1, 1)
    made = nested_test(column, confidence=confidence)
    return t_test_of(
        made.difference, made.standard_error**2, made.df, n_users=made.n_users, n_seeds=1,
        target="population", method="paired t over users, these two runs only (other seeds may differ)",
        confidence=confidence,
    )  # fmt: skip
