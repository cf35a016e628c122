"""Level, coverage and power of the tests, by simulation: the crossed test and the usual ones beside it.

Users x seeds of a per-user difference: user x algorithm SD .06, user x seed SD .08 a system, seed main effect
0, .002 or .005 a system, 2,000 users. Nominal level 5 %.

python bench/evidence/simulate.py [--quick]
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from machine import facts, save
from scipy import stats

from recengine.evaluation.statistics import VarianceComponents, crossed_test, power_of_crossed_test

USERS = 2000


def draw(generator: np.random.Generator, seeds: int, seed_sd: float, shift: float = 0.0) -> np.ndarray:
    return (
        shift
        + generator.normal(0, 0.06, (USERS, 1))
        + generator.normal(0, np.sqrt(2) * seed_sd, (1, seeds))
        + generator.normal(0, np.sqrt(2) * 0.08, (USERS, seeds))
    )


def planted(seed_sd: float) -> VarianceComponents:
    """The components that ``draw`` has, so that the formula is judged and not a pilot's noise."""
    return VarianceComponents(
        USERS, 2, 0.0, 0.0, 0.0, 0.0, unit=0.06**2, run=2 * seed_sd**2, error=2 * 0.08**2
    )


def one_seed(table: np.ndarray) -> float:
    return float(stats.ttest_1samp(table[:, 0], 0).pvalue)


def pooled(table: np.ndarray) -> float:
    return float(stats.ttest_1samp(table.ravel(), 0).pvalue)


def averaged(table: np.ndarray) -> float:
    return float(stats.ttest_1samp(table.mean(axis=1), 0).pvalue)


def over_seeds(table: np.ndarray) -> float:
    return float(stats.ttest_1samp(table.mean(axis=0), 0).pvalue)


def crossed(table: np.ndarray) -> float:
    return crossed_test(table).p_value


TESTS = {
    "one seed, t over users": one_seed,
    "pooled user x seed t": pooled,
    "seed-averaged t over users": averaged,
    "t over seed means": over_seeds,
    "two-way crossed t": crossed,
}


def main(repeats: int, keep: bool) -> None:
    rows, levels, gaps, cover = [], [], [], []
    for seeds in (3, 5, 10):
        for seed_sd in (0.0, 0.002, 0.005):
            generator = np.random.default_rng([seeds, int(1000 * seed_sd)])
            rejected = dict.fromkeys(TESTS, 0)
            covered = found = 0
            shift = 0.005
            parts = planted(seed_sd)
            predicted = power_of_crossed_test(parts, shift, users=USERS, seeds=seeds)
            for _ in range(repeats):
                table = draw(generator, seeds, seed_sd)
                for name, test in TESTS.items():
                    rejected[name] += test(table) < 0.05
                shifted = crossed_test(table + shift)
                covered += shifted.low <= shift <= shifted.high
                found += shifted.p_value < 0.05
            row = {"seeds": seeds, "seed_sd": seed_sd, **{name: n / repeats for name, n in rejected.items()}}
            row |= {"coverage": covered / repeats, "power": found / repeats, "power formula": predicted}
            rows.append(row)
            levels.append(row["two-way crossed t"])
            cover.append(row["coverage"])
            gaps.append(abs(row["power"] - predicted))
            print(json.dumps(row))
    if keep:
        note = f"Share of {repeats} simulations (nominal level .05, true difference .005 for power)."
        save("evidence_simulation", facts(repeats=repeats, users=USERS), rows, note)
    print(json.dumps({"claim": "evidence.crossed-level-most", "figure": max(levels)}))
    print(json.dumps({"claim": "evidence.crossed-level-least", "figure": min(levels)}))
    usual = min(max(row[name] for row in rows) for name in TESTS if name != "two-way crossed t")
    print(json.dumps({"claim": "evidence.usual-tests-level", "figure": usual}))
    print(json.dumps({"claim": "evidence.crossed-coverage", "figure": min(cover)}))
    print(json.dumps({"claim": "evidence.power-gap", "figure": round(max(gaps), 4)}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    asked = parser.parse_args()
    main(200 if asked.quick else 6000, not asked.quick)
