"""One sentence from a test: better, worse, equal within the margin, or not decidable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from recengine.errors import DataError, UsageError
from recengine.evaluation.statistics.crossed import DifferenceTest

Outcome = Literal["better", "worse", "equal", "undecided"]


@dataclass(frozen=True)
class EquivalenceTest:
    """Two one-sided tests: equal within +- margin when p_value < level (Schuirmann, 1987)."""

    margin: float
    p_value: float


def equivalence_test(test: DifferenceTest, margin: float) -> EquivalenceTest:
    """p = max of the one-sided p values of (difference > -margin) and (difference < margin)."""
    if not margin > 0:
        raise UsageError("the margin of equivalence must be positive", where="margin", found=margin)
    if test.standard_error == 0:
        return EquivalenceTest(margin, 0.0 if abs(test.difference) < margin else 1.0)
    above = float(stats.t.sf((test.difference + margin) / test.standard_error, test.df))
    below = float(stats.t.cdf((test.difference - margin) / test.standard_error, test.df))
    return EquivalenceTest(margin, max(above, below))


@dataclass(frozen=True)
class NoiseFloor:
    """Spread of the run means of one system. ``sign_flip`` = Phi(-|delta| / (sqrt(2) sd)): how often two
    single runs would name the wrong winner of a true difference ``delta``."""

    sd: float
    spread: float
    sign_flip: float | None


def noise_floor(run_means: ArrayLike, delta: float | None = None) -> NoiseFloor:
    """Noise of a metric over the runs of one system. Raises DataError for a single run."""
    means = np.asarray(run_means, dtype=np.float64)
    if means.ndim != 1 or means.size < 2:
        raise DataError("a noise floor needs the means of at least two runs", found=f"shape {means.shape}")
    sd = float(means.std(ddof=1))
    flip = None
    if delta is not None:
        flip = float(stats.norm.cdf(-abs(delta) / (np.sqrt(2) * sd))) if sd > 0 else 0.0
    return NoiseFloor(sd, float(np.ptp(means)), flip)


@dataclass(frozen=True)
class SignFlip:
    """How often single runs of two systems would name the wrong winner. share: of all pairs of a run of one
    and a run of the other, those that tie or order the systems unlike their grand means. expected:
    Phi(-|difference| / sqrt(sd_first^2 + sd_second^2)), the same under normal noise. pairs: how many there
    are."""

    share: float
    expected: float
    pairs: int


def sign_flip(first_means: ArrayLike, second_means: ArrayLike) -> SignFlip:
    """From the means of each run. A system with one run counts as free of noise; where the grand means are
    equal no winner is right, and both figures are 1. Raises DataError unless one has two runs."""
    first, second = (np.asarray(means, dtype=np.float64) for means in (first_means, second_means))
    if first.ndim != 1 or second.ndim != 1 or min(first.size, second.size) < 1:
        raise DataError("means of runs are needed", found=f"shapes {first.shape} and {second.shape}")
    if max(first.size, second.size) < 2:
        raise DataError("how often a run misleads takes two runs of a system", found="1 and 1")
    difference = float(first.mean() - second.mean())
    single = first[:, None] - second[None, :]
    if difference == 0:
        return SignFlip(1.0, 1.0, single.size)
    noise = sum(float(means.var(ddof=1)) for means in (first, second) if means.size > 1)
    expected = float(stats.norm.cdf(-abs(difference) / np.sqrt(noise))) if noise > 0 else 0.0
    return SignFlip(float((single * difference <= 0).mean()), expected, single.size)


@dataclass(frozen=True)
class Verdict:
    outcome: Outcome
    sentence: str


def verdict(
    test: DifferenceTest,
    *,
    metric: str,
    first: str,
    second: str,
    margin: float | None = None,
    alpha: float = 0.05,
    p_value: float | None = None,
    more: str = "",
) -> Verdict:
    """What the test says of ``first`` against ``second``.

    p_value: the adjusted one when several comparisons were made. margin: of equivalence, absolute. more:
    what it would take, appended to an undecided verdict.
    """
    p = test.p_value if p_value is None else p_value
    equivalence = None if margin is None else equivalence_test(test, margin)
    interval = f"{test.difference:+.4f} [{test.low:+.4f}, {test.high:+.4f}], p = {p:.3g}"
    equal = equivalence is not None and equivalence.p_value < alpha
    if p < alpha and not equal:
        outcome: Outcome = "better" if test.difference > 0 else "worse"
        return Verdict(outcome, f"{first} is {outcome} than {second} on {metric}: {interval}.")
    if equivalence is not None and equal:
        return Verdict(
            "equal",
            f"{first} and {second} are equal on {metric} within {equivalence.margin:g}: {interval}, "
            f"p of equivalence = {equivalence.p_value:.3g}.",
        )
    if test.standard_error == 0 and test.difference == 0:
        return Verdict("equal", f"{first} and {second} are the same on {metric}, for every user and run.")
    tail = f" {more}" if more else ""
    return Verdict(
        "undecided",
        f"{first} against {second} is not decidable on {metric} with what was run: {interval}.{tail}",
    )
