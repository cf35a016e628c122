"""Systems side by side: several seeds each, the same users, one verdict a metric and pair.

A system is what was run several times (systems.System). Its per-user rows form a table users x seeds for each
metric; two systems are compared by the crossed test (statistics.crossed), corrected for the number of
comparisons. What had to be done otherwise than asked is told in ``Comparison.notes``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from recengine.errors import DataError, UsageError
from recengine.evaluation.click_result import ClickProtocol
from recengine.evaluation.pairs import Repeats, Tables, flip_of, prospects, tables_of, test_of
from recengine.evaluation.protocol import Protocol
from recengine.evaluation.statistics import (
    DifferenceTest,
    EquivalenceTest,
    NoiseFloor,
    SignFlip,
    Verdict,
    benjamini_hochberg,
    equivalence_test,
    holm,
    noise_floor,
    verdict,
)
from recengine.evaluation.statistics.crossed import Target
from recengine.evaluation.systems import System, different_protocols

__all__ = ["Comparison", "Correction", "Pair", "Repeats", "Standing", "System", "Target", "compare_systems"]

Correction = Literal["holm", "benjamini-hochberg", "none"]


@dataclass(frozen=True)
class Pair:
    """One comparison on one metric. p_adjusted: after the correction. relative: difference / second's mean.
    effect_size: difference / sd of the users' mean differences. detectable: smallest difference that this
    many users and seeds find with 80 % power (None for one seed). flip: how often one run of each would name
    the wrong winner (None for one run). left_out: users without the metric in every run."""

    metric: str
    first: str
    second: str
    test: DifferenceTest
    p_adjusted: float
    relative: float
    effect_size: float
    equivalence: EquivalenceTest | None
    detectable: float | None
    flip: SignFlip | None
    left_out: int
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
    """left_out: users that not all systems scored. notes: fallbacks, in words that a reader is shown."""

    standings: list[Standing]
    pairs: list[Pair]
    n_users: int
    target: Target
    correction: Correction
    alpha: float
    left_out: int
    notes: tuple[str, ...] = ()


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
    users. intersect: compare on the users that all systems scored. Intervals have confidence 1 - alpha.

    Raises UsageError for different protocols (naming the fields) or metrics, DataError for different users.
    """
    if len(systems) < 2:
        raise UsageError("a comparison needs at least two systems", found=len(systems))
    if not 0 < alpha < 1:
        raise UsageError("a level lies strictly between 0 and 1", where="alpha", found=alpha)
    _same_protocol(systems)
    aligned, left_out = _aligned(systems, intersect)
    names = _metrics(aligned, metrics)
    standings = [_standing(system, metric) for metric in names for system in aligned]
    asked = [(metric, a, b, tables_of(a, b, metric)) for metric in names for a, b in combinations(aligned, 2)]
    tests = [test_of(tables, target, repeats, 1 - alpha) for *_, tables in asked]
    adjusted = _adjust([test.p_value for test in tests], correction)
    pairs = []
    for (metric, a, b, tables), test, p in zip(asked, tests, adjusted, strict=True):
        limit = margin.get(metric) if isinstance(margin, Mapping) else margin
        detectable, more = prospects(tables, test, target, repeats, alpha)
        names_of = {"metric": metric, "first": a.name, "second": b.name}
        said = verdict(test, **names_of, margin=limit, alpha=alpha, p_value=p, more=more)
        equivalence = None if limit is None else equivalence_test(test, limit)
        sizes = _sizes(tables, test)
        pairs.append(
            Pair(
                metric, a.name, b.name, test, p, *sizes, equivalence, detectable, flip_of(tables),
                tables.left_out, said,
            )
        )  # fmt: skip
    notes = tuple(dict.fromkeys([*_notes(aligned, repeats), *_metric_notes(pairs)]))
    return Comparison(standings, pairs, len(aligned[0].users), target, correction, alpha, left_out, notes)


def _same_protocol(systems: Sequence[System]) -> None:
    first = systems[0]
    for other in systems[1:]:
        differing = _differing(first.protocol, other.protocol)
        if differing:
            raise different_protocols(f"{first.name} and {other.name}", differing)


def _differing(first: Protocol | ClickProtocol, other: Protocol | ClickProtocol) -> list[str]:
    if isinstance(first, ClickProtocol) and isinstance(other, ClickProtocol):
        return first.difference(other)
    if isinstance(first, Protocol) and isinstance(other, Protocol):
        return first.difference(other)
    return ["kind"]  # rows of a click log beside ranked lists


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


def _sizes(tables: Tables, test: DifferenceTest) -> tuple[float, float]:
    """Relative difference and effect size; NaN where their divisor is zero."""
    spread = float((tables.first.mean(axis=1) - tables.second.mean(axis=1)).std(ddof=1))
    reference = float(tables.second.mean())
    return (
        test.difference / reference if reference else float("nan"),
        test.difference / spread if spread else float("nan"),
    )


def _notes(systems: Sequence[System], repeats: Repeats) -> list[str]:
    """What the runs do not allow, whatever the metric."""
    random = [system for system in systems if not system.deterministic]
    notes = [
        f"{system.name} has one run: what is said of it holds for that run, not for other seeds"
        for system in random
        if len(system.seeds) == 1
    ]
    fixed = [system.name for system in systems if system.deterministic]
    if fixed:
        notes.append(f"{', '.join(fixed)}: no seed changes the result, one run stands for all")
    several = [system for system in random if len(system.seeds) > 1]
    every = sorted({seed for system in several for seed in system.seeds})
    lacking = {s.name: [seed for seed in every if seed not in s.seeds] for s in several}
    told = [f"{name} lacks {', '.join(map(str, seeds))}" for name, seeds in lacking.items() if seeds]
    if told and repeats == "seeds":
        notes.append(f"the systems have different seeds ({'; '.join(told)}): seeds are not paired")
    return notes


def _metric_notes(pairs: Sequence[Pair]) -> list[str]:
    notes = [
        f"{pair.metric}: {pair.left_out} users without a value in every run were left out"
        for pair in pairs
        if pair.left_out
    ]
    notes += [
        f"{pair.metric}: {pair.first} and {pair.second} differ by the same {pair.test.difference:g} for "
        "every user and run; there is nothing to test"
        for pair in pairs
        if pair.test.standard_error == 0 and pair.test.df != float("inf")
    ]
    return notes
