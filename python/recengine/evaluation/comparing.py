"""Systems side by side: several seeds each, the same users, one verdict a metric and pair.

A system is what was run several times. Its per-user rows form a table users x seeds for each metric; two
systems are compared by the crossed test (statistics.crossed), corrected for the number of comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recengine.errors import DataError, UsageError
from recengine.evaluation.protocol import Protocol
from recengine.evaluation.result import Evaluation
from recengine.evaluation.statistics import (
    DifferenceTest,
    EquivalenceTest,
    NoiseFloor,
    Verdict,
    benjamini_hochberg,
    crossed_test,
    equivalence_test,
    holm,
    minimum_detectable_effect,
    nested_test,
    noise_floor,
    plan,
    single_run_test,
    unpaired_crossed_test,
    variance_components,
    verdict,
)
from recengine.evaluation.statistics.crossed import Target

Correction = Literal["holm", "benjamini-hochberg", "none"]
Repeats = Literal["seeds", "decoding"]


@dataclass(frozen=True)
class System:
    """users: original ids in order. scores: metric -> float64 [users, seeds]. seeds in the columns' order."""

    name: str
    users: tuple[object, ...]
    seeds: tuple[int, ...]
    scores: Mapping[str, NDArray[np.float64]]
    protocol: Protocol

    @classmethod
    def of(cls, name: str, runs: Mapping[int, Evaluation]) -> System:
        """From one evaluation a seed. Raises DataError when the runs saw different users or protocols."""
        if not runs:
            raise UsageError("a system needs at least one run", where=name)
        seeds = tuple(sorted(runs))
        first = runs[seeds[0]]
        users = tuple(first.per_user["user"].to_list())
        for seed in seeds[1:]:
            differing = first.protocol.difference(runs[seed].protocol)
            if differing:
                raise _different_protocols(f"{name}, seeds {seeds[0]} and {seed}", differing)
            if tuple(runs[seed].per_user["user"].to_list()) != users:
                raise DataError(
                    "two runs of one system were scored on different users", where=f"{name}, {seed}"
                )
        metrics = [metric for metric in first.metrics if all(metric in runs[seed].metrics for seed in seeds)]
        scores = {
            metric: np.stack([runs[seed].values(metric) for seed in seeds], axis=1) for metric in metrics
        }
        return cls(name, users, seeds, scores, first.protocol)

    def on(self, users: Sequence[object]) -> System:
        """The same system on some of its users, in the order given."""
        at = {user: row for row, user in enumerate(self.users)}
        rows = np.array([at[user] for user in users])
        scores = {metric: table[rows] for metric, table in self.scores.items()}
        return System(self.name, tuple(users), self.seeds, scores, self.protocol)


@dataclass(frozen=True)
class Pair:
    """One comparison on one metric. p_adjusted: after the correction. relative: difference / second's mean.
    effect_size: difference / sd of the users' mean differences. detectable: smallest difference that this
    many users and seeds find with 80 % power (None for one seed)."""

    metric: str
    first: str
    second: str
    test: DifferenceTest
    p_adjusted: float
    relative: float
    effect_size: float
    equivalence: EquivalenceTest | None
    detectable: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Standing:
    """One system on one metric: grand mean, mean of each run, their noise (None for one run)."""

    system: str
    metric: str
    mean: float
    runs: tuple[float, ...]
    noise: NoiseFloor | None


@dataclass(frozen=True)
class Comparison:
    standings: list[Standing]
    pairs: list[Pair]
    n_users: int
    target: Target
    correction: Correction
    left_out: int


def compare_systems(
    systems: Sequence[System],
    *,
    metrics: Sequence[str] | None = None,
    target: Target = "population",
    margin: float | Mapping[str, float] | None = None,
    correction: Correction = "holm",
    repeats: Repeats = "seeds",
    alpha: float = 0.05,
    intersect: bool = False,
) -> Comparison:
    """Test every pair of systems on every metric.

    target: new users of the same kind ('population') or these very users ('fixed'). margin: of equivalence,
    absolute, one for all metrics or by name. repeats: what the columns are; 'decoding' repeats are nested in
    users. intersect: compare on the users that all systems scored.

    Raises UsageError for different protocols (naming the fields) or metrics, DataError for different users.
    """
    if len(systems) < 2:
        raise UsageError("a comparison needs at least two systems", found=len(systems))
    _same_protocol(systems)
    aligned, left_out = _aligned(systems, intersect)
    names = _metrics(aligned, metrics)
    standings = [_standing(system, metric) for metric in names for system in aligned]
    tests: list[tuple[str, System, System, DifferenceTest]] = []
    for metric in names:
        for a, b in combinations(aligned, 2):
            tests.append((metric, a, b, _test(a, b, metric, target, repeats)))
    adjusted = _adjust([test.p_value for *_, test in tests], correction)
    pairs = [
        _pair(metric, a, b, test, p, margin, alpha, target)
        for (metric, a, b, test), p in zip(tests, adjusted, strict=True)
    ]
    return Comparison(standings, pairs, len(aligned[0].users), target, correction, left_out)


def _different_protocols(where: str, fields: Sequence[str]) -> UsageError:
    return UsageError(
        "these runs were measured by different protocols; their figures do not compare",
        where=where,
        found="they differ in " + ", ".join(fields),
        fix="evaluate them again under one protocol",
    )


def _same_protocol(systems: Sequence[System]) -> None:
    first = systems[0]
    for other in systems[1:]:
        differing = first.protocol.difference(other.protocol)
        if differing:
            raise _different_protocols(f"{first.name} and {other.name}", differing)


def _aligned(systems: Sequence[System], intersect: bool) -> tuple[list[System], int]:
    sets = [set(system.users) for system in systems]
    shared, everyone = set.intersection(*sets), set.union(*sets)
    if len(shared) == len(everyone):
        return [system.on(systems[0].users) for system in systems], 0
    left_out = len(everyone) - len(shared)
    if not intersect:
        counts = ", ".join(f"{system.name} {len(system.users)}" for system in systems)
        raise DataError(
            f"the systems were scored on different users: {left_out} were not scored by all",
            found=counts,
            expected="the same users for every system",
            fix=f"compare on the {len(shared)} shared users (intersect), and say so",
        )
    if len(shared) < 2:
        raise DataError("the systems share fewer than two users", found=len(shared))
    order = [user for user in systems[0].users if user in shared]
    return [system.on(order) for system in systems], left_out


def _metrics(systems: Sequence[System], asked: Sequence[str] | None) -> list[str]:
    common = [metric for metric in systems[0].scores if all(metric in system.scores for system in systems)]
    if asked is None:
        return common
    missing = [metric for metric in asked if metric not in common]
    if missing:
        raise UsageError(
            "not every system was measured on " + ", ".join(missing), expected="some of " + ", ".join(common)
        )
    return list(asked)


def _defined(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Users for whom the metric is defined in every run of both systems."""
    return np.asarray(np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1))


def _test(a: System, b: System, metric: str, target: Target, repeats: Repeats) -> DifferenceTest:
    keep = _defined(a.scores[metric], b.scores[metric])
    if keep.sum() < 2:
        raise DataError("the metric is defined for fewer than two users", where=metric, found=int(keep.sum()))
    first, second = a.scores[metric][keep], b.scores[metric][keep]
    if first.shape[1] == 1 or second.shape[1] == 1:
        return single_run_test(first.mean(axis=1) - second.mean(axis=1))
    if repeats == "decoding":
        width = min(first.shape[1], second.shape[1])
        return nested_test(first[:, :width] - second[:, :width])
    if a.seeds == b.seeds:
        return crossed_test(first - second, target=target)
    return unpaired_crossed_test(first, second, target=target)


def _adjust(p_values: Sequence[float], correction: Correction) -> list[float]:
    if correction == "none" or not p_values:
        return list(p_values)
    adjust = holm if correction == "holm" else benjamini_hochberg
    return [float(p) for p in adjust(p_values)]


def _standing(system: System, metric: str) -> Standing:
    table = system.scores[metric]
    table = table[np.isfinite(table).all(axis=1)]
    runs = table.mean(axis=0) if len(table) else np.full(table.shape[1], np.nan)
    noise = noise_floor(runs) if len(runs) > 1 and np.isfinite(runs).all() else None
    return Standing(system.name, metric, float(runs.mean()), tuple(runs.tolist()), noise)


def _pair(
    metric: str,
    a: System,
    b: System,
    test: DifferenceTest,
    p_adjusted: float,
    margin: float | Mapping[str, float] | None,
    alpha: float,
    target: Target,
) -> Pair:
    keep = _defined(a.scores[metric], b.scores[metric])
    by_user = a.scores[metric][keep].mean(axis=1) - b.scores[metric][keep].mean(axis=1)
    reference = float(b.scores[metric][keep].mean())
    spread = float(by_user.std(ddof=1))
    limit = margin.get(metric) if isinstance(margin, Mapping) else margin
    detectable, more = _what_it_would_take(a, b, metric, keep, test, target)
    return Pair(
        metric,
        a.name,
        b.name,
        test,
        p_adjusted,
        test.difference / reference if reference else float("nan"),
        test.difference / spread if spread else float("nan"),
        None if limit is None else equivalence_test(test, limit),
        detectable,
        verdict(
            test, metric=metric, first=a.name, second=b.name, margin=limit, alpha=alpha,
            p_value=p_adjusted, more=more,
        ),
    )  # fmt: skip


def _what_it_would_take(
    a: System, b: System, metric: str, keep: NDArray[np.bool_], test: DifferenceTest, target: Target
) -> tuple[float | None, str]:
    """Minimum detectable effect with what was run, and what it would take to tell this difference."""
    if len(a.seeds) < 2 or len(b.seeds) < 2:
        return None, "One run says nothing of other seeds: repeat both systems (5 seeds are a usual start)."
    width = min(len(a.seeds), len(b.seeds))
    parts = variance_components(a.scores[metric][keep][:, :width] - b.scores[metric][keep][:, :width])
    detectable = minimum_detectable_effect(parts, users=parts.n_units, seeds=width, target=target)
    if test.difference == 0:
        return detectable, f"These runs would find a difference of {detectable:.2g} four times in five."
    needed = plan(parts, abs(test.difference), target=target)
    if needed.seeds is not None:
        more = f"A difference of this size would take about {needed.seeds} seeds a system with these users."
    elif needed.users_needed is not None:
        more = (
            f"A difference of this size would take about {needed.users_needed:,} users with 5 seeds a system."
        )
    else:
        more = "A difference of this size is beyond what more seeds or users would show."
    return detectable, more
