"""Whether what a search recommends is worth changing the default for.

The best of many noisy trials looks better than it is, on the very users and targets that chose it. So the two
candidates are measured anew, on targets that no trial was judged by and under seeds that no trial used, and
the default stays unless the gain holds there: a search without any real gain ends at the default, but for the
error rate of the test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from recengine.errors import DataError
from recengine.evaluation.statistics import DifferenceTest, crossed_test, single_run_test


@dataclass(frozen=True)
class Decision:
    """adopted: whether the recommendation takes the default's place; test: of recommended - default."""

    adopted: bool
    test: DifferenceTest


def decide(recommended: ArrayLike, default: ArrayLike, *, confidence: float = 0.95) -> Decision:
    """Adopt the recommendation if the interval of its gain lies above zero.

    recommended, default: values [users, seeds] of one metric, larger is better, the same users and seeds. The
    test is the two-way crossed one; with one seed it is over users alone and says so in its ``method``.
    Raises DataError where the shapes differ or a value is not finite.
    """
    ours, theirs = np.asarray(recommended, np.float64), np.asarray(default, np.float64)
    if ours.ndim != 2 or ours.shape != theirs.shape:
        raise DataError(
            "the two candidates must be measured on the same users under the same seeds",
            found=f"{ours.shape} and {theirs.shape}",
            expected="two tables [users, seeds] of one shape",
        )
    difference = ours - theirs
    if not np.isfinite(difference).all():
        raise DataError("a measured value is not finite", where="decision", expected="finite values")
    test = crossed_test if difference.shape[1] > 1 else single_run_test
    found = test(difference, confidence=confidence)
    return Decision(found.low > 0, found)
