"""How many seeds and users a claim takes.

Independent arms use the noncentral t distribution (the normal formula 2((z_a + z_b) s/d)^2 is one run too
optimistic at the sizes that people can afford); the crossed test averages over what its mean squares may be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.stats import qmc

from recengine.errors import UsageError
from recengine.evaluation.statistics.components import VarianceComponents
from recengine.evaluation.statistics.crossed import Target

_MOST_RUNS = 100_000


def runs_per_arm(
    sigma: float, delta: float, *, power: float = 0.8, alpha: float = 0.05, exact: bool = True
) -> int:
    """Runs a system so that a two-sided test of two independent arms of runs finds ``delta``.

    sigma: standard deviation of the score of one run, in the unit of delta. exact=False gives the normal
    formula ceil(2 ((z_{1-alpha/2} + z_power) sigma/delta)^2), for comparison with published tables.
    """
    _check(delta=delta, power=power, alpha=alpha)
    if not exact:
        z = stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)
        return max(1, int(np.ceil(2 * (z * sigma / delta) ** 2 - 1e-9)))
    for n in range(2, _MOST_RUNS):
        df = 2 * n - 2
        if _power_of_t(delta / (sigma * math.sqrt(2 / n)), df, alpha) >= power:
            return n
    raise UsageError(
        "no number of runs up to 100,000 reaches this power", found=f"sigma/delta = {sigma / delta:g}"
    )


def power_of_crossed_test(
    parts: VarianceComponents,
    delta: float,
    *,
    users: int,
    seeds: int,
    target: Target = "population",
    alpha: float = 0.05,
) -> float:
    """Power of the two-way crossed t test against a true difference ``delta``.

    parts: variance components of the per-user differences, from a pilot.
    """
    variance = parts.variance_of_mean(units=users, runs=seeds, target=target)
    if variance <= 0:
        return 1.0 if delta else alpha
    if target == "fixed":
        return _power_of_t(delta / math.sqrt(variance), float(seeds - 1), alpha)
    limit = _limits(parts, users, seeds, alpha)
    error = math.sqrt(variance)
    return float((stats.norm.sf((limit - delta) / error) + stats.norm.cdf((-limit - delta) / error)).mean())


@lru_cache(maxsize=512)
def _limits(parts: VarianceComponents, users: int, seeds: int, alpha: float) -> NDArray[np.float64]:
    """How large a mean difference must be for the crossed test to reject it, over its mean squares.

    Under normal errors the three mean squares are independent scaled chi-squares, and independent of the
    mean: the power is the average over them (4,096 quasi-random points) of a normal probability.
    """
    degrees = np.array([users - 1, seeds - 1, (users - 1) * (seeds - 1)], dtype=np.float64)
    expected = np.array([parts.error + seeds * parts.unit, parts.error + users * parts.run, parts.error])
    drawn = qmc.Sobol(3, scramble=True, seed=np.random.default_rng(0)).random_base2(12)
    of_users, of_seeds, rest = (
        expected * stats.chi2.ppf(np.clip(drawn, 1e-9, 1 - 1e-9), degrees) / degrees
    ).T
    combined = of_users + of_seeds - rest
    variance = np.maximum.reduce([combined, of_users, of_seeds]) / (users * seeds)
    spread = of_users**2 / degrees[0] + of_seeds**2 / degrees[1] + rest**2 / degrees[2]
    df = np.clip(combined**2 / np.maximum(spread, 1e-300), 1.0, (users - 1) * seeds)
    return np.asarray(stats.t.ppf(1 - alpha / 2, df) * np.sqrt(variance))


def minimum_detectable_effect(
    parts: VarianceComponents,
    *,
    users: int,
    seeds: int,
    power: float = 0.8,
    alpha: float = 0.05,
    target: Target = "population",
) -> float:
    """The smallest true difference that the crossed test finds with this power; infinite with one seed."""
    if seeds < 2:
        return float("inf")
    error = float(np.sqrt(parts.variance_of_mean(units=users, runs=seeds, target=target)))
    low, high = 0.0, 1.0
    while (
        power_of_crossed_test(parts, high * error, users=users, seeds=seeds, target=target, alpha=alpha)
        < power
    ):
        high *= 2
        if high > 1e6:
            return float("inf")
    for _ in range(60):
        middle = (low + high) / 2
        reached = power_of_crossed_test(
            parts, middle * error, users=users, seeds=seeds, target=target, alpha=alpha
        )
        low, high = (low, middle) if reached >= power else (middle, high)
    return high * error


@dataclass(frozen=True)
class Plan:
    """seeds: how many a system, or None when no number of seeds is enough with these users.

    users_needed: users at which five seeds would be enough, or None. curve: [(seeds, power, minimum
    detectable effect)]. cost: seeds x cost_per_run x 2 systems. reason: one sentence.
    """

    delta: float
    users: int
    seeds: int | None
    power: float
    users_needed: int | None
    cost: float | None
    curve: list[tuple[int, float, float]]
    reason: str


def plan(
    parts: VarianceComponents,
    delta: float,
    *,
    users: int | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
    target: Target = "population",
    most_seeds: int = 100,
    cost_per_run: float | None = None,
) -> Plan:
    """Seeds, users and cost for ``delta`` (absolute, in the metric's unit) from a pilot's components."""
    _check(delta=delta, power=power, alpha=alpha)
    users = users or parts.n_units

    def reached(seeds: int, n: int) -> float:
        return power_of_crossed_test(parts, delta, users=n, seeds=seeds, target=target, alpha=alpha)

    seeds = next((s for s in range(2, most_seeds + 1) if reached(s, users) >= power), None)
    users_needed = None
    if seeds is None or seeds > 5:
        grid = np.unique(np.geomspace(users, 1e9, 200).astype(np.int64))
        users_needed = next((int(n) for n in grid if reached(5, int(n)) >= power), None)
    shown = sorted({2, 3, 5, 10, 20, *([seeds] if seeds else [])})
    curve = [
        (s, reached(s, users), minimum_detectable_effect(
            parts, users=users, seeds=s, power=power, alpha=alpha, target=target))
        for s in shown
    ]  # fmt: skip
    if seeds is None:
        reason = (
            f"no number of seeds up to {most_seeds} is enough with {users} users: users vary too much"
            if target == "population"
            else f"no number of seeds up to {most_seeds} is enough"
        )
    else:
        reached_power = reached(seeds, users)
        reason = f"{seeds} seeds a system reach a power of {reached_power:.2f} for a difference of {delta:g}"
    cost = None if seeds is None or cost_per_run is None else 2 * seeds * cost_per_run
    return Plan(delta, users, seeds, power, users_needed, cost, curve, reason)


def _power_of_t(shift: float, df: float, alpha: float) -> float:
    limit = stats.t.ppf(1 - alpha / 2, df)
    if not np.isfinite(shift) or abs(shift) > 37:  # scipy's noncentral t loses its digits out there
        return 1.0
    return float(stats.nct.sf(limit, df, shift) + stats.nct.cdf(-limit, df, shift))


def _check(*, delta: float, power: float, alpha: float) -> None:
    if not delta > 0:
        raise UsageError("the difference to be found must be positive", where="delta", found=delta)
    if not 0 < alpha < power < 1:
        raise UsageError(
            "power and level must be probabilities with level < power",
            found=f"power {power}, level {alpha}",
        )
