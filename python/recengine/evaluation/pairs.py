"""One pair of systems on one metric: which test fits what was run, and what it would take to know more."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from recengine.errors import DataError
from recengine.evaluation.statistics import (
    DifferenceTest,
    SignFlip,
    crossed_test,
    minimum_detectable_effect,
    nested_test,
    plan,
    sign_flip,
    single_run_test,
    unpaired_crossed_test,
    variance_components,
)
from recengine.evaluation.statistics.crossed import Target
from recengine.evaluation.systems import System

Repeats = Literal["seeds", "decoding"]
Table = NDArray[np.float64]


@dataclass(frozen=True)
class Tables:
    """Scores of two systems on one metric [users, runs], for the users for whom it is defined in every run.
    left_out: users for whom it is not. shared: the columns of both are the same seeds. fixed: neither system
    has randomness."""

    first: Table
    second: Table
    left_out: int
    shared: bool
    fixed: bool


def tables_of(a: System, b: System, metric: str) -> Tables:
    """Raises DataError where fewer than two users have the metric.

    A deterministic system's one run stands beside every run of the other.
    """
    first, second = a.scores[metric], b.scores[metric]
    keep = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
    if keep.sum() < 2:
        raise DataError(
            "the metric is defined for fewer than two users in every run",
            where=f"{metric}, {a.name} and {b.name}",
            found=f"{int(keep.sum())} of {keep.size} users; the others have NaN",
            fix="leave the metric out with --metric, or look at what made it NaN",
        )
    first, second = first[keep], second[keep]
    shared = a.seeds == b.seeds
    if a.deterministic and not b.deterministic:
        first, shared = np.repeat(first[:, :1], second.shape[1], axis=1), True
    elif b.deterministic and not a.deterministic:
        second, shared = np.repeat(second[:, :1], first.shape[1], axis=1), True
    return Tables(first, second, int((~keep).sum()), shared, a.deterministic and b.deterministic)


def test_of(tables: Tables, target: Target, repeats: Repeats, confidence: float) -> DifferenceTest:
    """The test that the columns allow: crossed, crossed with seeds apart, nested, or of two single runs."""
    first, second = tables.first, tables.second
    means = (first.mean(axis=1) - second.mean(axis=1))[:, None]
    if tables.fixed:
        return _without_seeds(means, target, confidence)
    if repeats == "decoding":
        width = min(first.shape[1], second.shape[1])
        return replace(nested_test(means, confidence=confidence), n_seeds=width)
    if first.shape[1] == 1 or second.shape[1] == 1:
        return single_run_test(means, confidence=confidence)
    if tables.shared:
        return crossed_test(first - second, target=target, confidence=confidence)
    return unpaired_crossed_test(first, second, target=target, confidence=confidence)


def _without_seeds(means: Table, target: Target, confidence: float) -> DifferenceTest:
    """Two deterministic systems: for these users the difference is what it is; for others, t over users."""
    if target == "population":
        made = nested_test(means, confidence=confidence)
        return replace(made, method="paired t over users, neither system depends on a seed")
    difference = float(means.mean())
    sure = 1.0 if difference == 0 else 0.0
    return DifferenceTest(
        difference, 0.0, math.inf, math.copysign(math.inf, difference) if difference else 0.0, sure,
        difference, difference, confidence, len(means), 1, "fixed",
        "the difference itself, neither system depends on a seed",
    )  # fmt: skip


def flip_of(tables: Tables) -> SignFlip | None:
    """How often one run of each names the wrong winner; None where no system was run twice, or
    the grand means are equal."""
    first, second = tables.first.mean(axis=0), tables.second.mean(axis=0)
    if tables.fixed or max(first.size, second.size) < 2 or first.mean() == second.mean():
        return None
    return sign_flip(first, second)


def prospects(
    tables: Tables, test: DifferenceTest, target: Target, repeats: Repeats, alpha: float
) -> tuple[float | None, str]:
    """The smallest difference that what was run finds with 80 % power, and what it would take to tell this
    one; (None, why) where the runs cannot say."""
    if repeats == "decoding" or tables.fixed:
        return _of_users(test, alpha)
    width = min(tables.first.shape[1], tables.second.shape[1])
    if width < 2:
        return None, "One run says nothing of other seeds: repeat both systems (5 seeds are a usual start)."
    parts = variance_components(tables.first[:, :width] - tables.second[:, :width])
    detectable = minimum_detectable_effect(
        parts, users=parts.n_units, seeds=width, target=target, alpha=alpha
    )
    if test.difference == 0 or parts.ms_unit + parts.ms_run + parts.ms_error == 0:
        return detectable, f"These runs would find a difference of {detectable:.2g} four times in five."
    needed = plan(parts, abs(test.difference), target=target, alpha=alpha)
    if needed.seeds is not None:
        return detectable, (
            f"A difference of this size would take about {needed.seeds} seeds a system with these users."
        )
    if needed.users_needed is not None:
        return detectable, (
            f"A difference of this size would take about {needed.users_needed:,} users with 5 seeds a system."
        )
    return detectable, "A difference of this size is beyond what more seeds or users would show."


def _of_users(test: DifferenceTest, alpha: float) -> tuple[float | None, str]:
    """Where only users are sampled: (z_{1-alpha/2} + z_{.8}) standard errors are found, and the error falls
    with the root of their number."""
    reach = float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(0.8)) * test.standard_error
    if test.difference == 0 or reach == 0:
        return reach or None, ""
    users = math.ceil(test.n_users * (reach / test.difference) ** 2)
    return reach, f"A difference of this size would take about {users:,} users."
