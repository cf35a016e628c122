"""How often each interval that a command or a page prints covers the truth; nominal 95 %.

Users x seeds tables with planted components (user .2, user x algorithm .06, rest .08 a system, seed main
effect .002 or .005 a system), tasks with Beta-distributed chances of success, clustered hits. One row an
interval and setting.

    python bench/evidence/coverage.py [--quick]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from machine import facts, save

from recengine.evaluation import statistics as s
from recengine.evaluation.intervals import t_interval
from recengine.reports.calibration import calibration_of
from recengine.reports.comparison import mean_of
from recengine.reports.slicing import ratio_with_interval

Bounds = tuple[float, float]
TRUTH = 0.005
USERS = 1000


def systems(rng: np.random.Generator, seeds: int, seed_sd: float, fixed: Any = None) -> tuple[Any, Any]:
    """Scores of two systems [users, seeds] that differ by TRUTH. fixed: the users' part, the same every
    time."""
    user, own = fixed if fixed is not None else users(rng)
    tables = [
        user + rng.normal(0, seed_sd, (1, seeds)) + rng.normal(0, 0.08, (len(user), seeds)) for _ in range(2)
    ]
    return tables[0] + TRUTH + own, tables[1]


def users(rng: np.random.Generator) -> tuple[Any, Any]:
    return rng.normal(0.3, 0.2, (USERS, 1)), rng.normal(0, 0.06, (USERS, 1))


def crossed(seeds: int, seed_sd: float, target: Any, shared: bool) -> Callable[[np.random.Generator], bool]:
    held = users(np.random.default_rng(99)) if target == "fixed" else None
    truth = TRUTH + (float(held[1].mean()) if held is not None else 0.0)

    def once(rng: np.random.Generator) -> bool:
        a, b = systems(rng, seeds, seed_sd, held)
        test = (
            s.crossed_test(a - b, target=target) if shared else s.unpaired_crossed_test(a, b, target=target)
        )
        return test.low <= truth <= test.high

    return once


def nested(rng: np.random.Generator) -> bool:
    a, b = systems(rng, 5, 0.0)
    test = s.nested_test(a - b)
    return test.low <= TRUTH <= test.high


def mean_of_system(rng: np.random.Generator) -> bool:
    one = mean_of(systems(rng, 5, 0.005)[1], "population")
    return one is not None and one.low <= 0.3 <= one.high


def over_users(rng: np.random.Generator) -> bool:
    low, high = t_interval((rng.random(500) < 0.1).astype(float))
    return low <= 0.1 <= high


def clustered(rng: np.random.Generator) -> bool:
    counts = rng.integers(1, 12, 200).astype(float)
    one = ratio_with_interval(counts * (rng.random(200) < 0.3), counts)
    return one is not None and one.low <= 0.3 <= one.high


def wilson(rng: np.random.Generator) -> float:
    """Mean over ten bins of equal predictions: each bin's interval against its true share."""
    chance = np.repeat(np.linspace(0.05, 0.95, 10), 100)
    found = calibration_of("x", (rng.random(1000) < chance).astype(float), chance)
    return float(np.mean([e.low <= p <= e.high for p, e in found.bins]))


def envelope(tasks: int, side: str, k: int, draws: int) -> Callable[[np.random.Generator], bool]:
    """Truth for Beta(.5, .8) chances: E[1 - (1 - p)^k] and E[p^k] over tasks."""
    grid = np.random.default_rng(1).beta(0.5, 0.8, 4_000_000)
    truth = float((1 - (1 - grid) ** k).mean() if side == "best" else (grid**k).mean())

    def once(rng: np.random.Generator) -> bool:
        runs = (rng.random((tasks, 5)) < rng.beta(0.5, 0.8, (tasks, 1))).astype(float)
        values = s.best_at_k(runs, k) if side == "best" else s.worst_at_k(runs, k)
        one = s.item_bootstrap(values, draws=draws, seed=int(rng.integers(2**31)))
        return one.low <= truth <= one.high

    return once


def bootstrap(seeds: int, draws: int) -> Callable[[np.random.Generator], bool]:
    def once(rng: np.random.Generator) -> bool:
        a, b = systems(rng, seeds, 0.002)
        one = s.crossed_bootstrap({"x": a - b}, draws=draws, seed=int(rng.integers(2**31)), threads=1)
        return one.low["x"] <= TRUTH <= one.high["x"]

    return once


def cases(draws: int) -> list[tuple[str, str, bool, Any]]:
    """(interval, setting, printed by a command, one simulation)."""
    found: list[tuple[str, str, bool, Any]] = []
    for target in ("population", "fixed"):
        for shared in (True, False):
            for seeds in (3, 5, 10):
                for sd in (0.002, 0.005):
                    name = f"crossed t, seeds {'shared' if shared else 'apart'}, {target}"
                    told = f"{seeds} seeds, seed SD {sd}"
                    found.append((name, told, True, crossed(seeds, sd, target, shared)))
    found += [
        ("t over users, repeats nested", "5 repeats", True, nested),
        ("mean of a system, crossed", "5 seeds, seed SD 0.005", True, mean_of_system),
        ("mean over users, t", "500 users, 10 % hits", True, over_users),
        ("ratio over users, linearised", "200 users, 1 to 11 targets", True, clustered),
        ("share in a calibration bin, Wilson", "10 bins of 100 rows", True, wilson),
    ]
    for tasks in (50, 300):
        for side, k in (("best", 1), ("best", 3), ("worst", 3)):
            name = f"{side}@{k} over tasks, bootstrap"
            found.append((name, f"{tasks} tasks, 5 runs", True, envelope(tasks, side, k, draws)))
    found += [
        (
            "crossed bootstrap (offered, printed nowhere)",
            f"{seeds} seeds, seed SD 0.002",
            False,
            bootstrap(seeds, draws),
        )
        for seeds in (5, 10)
    ]
    return found


def main(repeats: int, draws: int, keep: bool) -> None:
    rows = []
    for number, (name, told, printed, once) in enumerate(cases(draws)):
        rng = np.random.default_rng([7, number])
        n = repeats if "bootstrap" not in name else repeats // 2
        covered = float(np.mean([once(rng) for _ in range(n)]))
        rows.append(
            {"interval": name, "setting": told, "printed": printed, "coverage": covered, "repeats": n}
        )
        print(json.dumps(rows[-1]), flush=True)
    if keep:
        save(
            "evidence_coverage",
            facts(users=USERS),
            rows,
            "Share of simulations in which a 95 % interval covers.",
        )
    shown = [row["coverage"] for row in rows if row["printed"]]
    print(json.dumps({"claim": "evidence.interval-coverage", "figure": round(min(shown), 4)}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions, nothing written")
    asked = parser.parse_args()
    main(100 if asked.quick else 4000, 200 if asked.quick else 1000, not asked.quick)
