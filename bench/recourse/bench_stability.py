"""Stability: the measured Lipschitz constant of the answer, and the coverage of the chi-square calibration.

python bench/recourse/bench_stability.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evidence"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import tables
from cells import SEEDS, Cell, cells, with_bias
from machine import facts, save

from recengine_plugins.ellice.box import solve_box
from recengine_plugins.ellice.logistic import fit_layer, logistic_problem
from recengine_plugins.ellice.rashomon import Ellipsoid, eps_from_level

Array = NDArray[np.float64]
LEVEL = 0.95


def lipschitz(cell: Cell, pairs: int) -> dict[str, float]:
    """Largest |x(a) - x(b)|_W / |a - b|_W over pairs of rejected people: with one box for all (where the
    theorem promises at most 1), and with one-way limits that move with the person (where it does not).
    A distance is resolved to about 1e-9, so pairs are at least 1e-3 apart."""
    generator = np.random.default_rng([cell.seed, cell.fold])
    people = np.clip(np.r_[cell.X, cell.test], cell.low, cell.high)
    people = people[with_bias(people) @ cell.layer.theta < 0]
    d = people.shape[1]
    a = people[generator.integers(len(people), size=pairs)]
    far = people[generator.integers(len(people), size=pairs)]
    part = 10 ** generator.uniform(-3, 0, (pairs, 1))
    noise = generator.normal(size=a.shape) * 10 ** generator.uniform(-2.5, 0, (pairs, 1))
    b = np.where(generator.random((pairs, 1)) < 0.5, a + part * (far - a), a + noise)
    b = np.clip(b, cell.low, cell.high)
    weights = 10 ** generator.uniform(-0.5, 0.5, d)
    ellipsoid = Ellipsoid.of(cell.layer, cell.default_eps())
    apart = np.sqrt(np.square(a - b) @ weights)
    kept = apart > 1e-3
    a, b, apart = a[kept], b[kept], apart[kept]
    made = {}
    for what in ("fixed", "one_way"):
        answers = []
        for x0 in (a, b):
            low, high = np.tile(cell.low, (len(x0), 1)), np.tile(cell.high, (len(x0), 1))
            if what == "one_way":  # every third feature only grows
                low[:, ::3] = x0[:, ::3]
            answers.append(solve_box(ellipsoid, x0, weights, low, high, tau=0.0))
        both = answers[0].feasible & answers[1].feasible
        moved = np.sqrt(np.square(answers[0].points[both] - answers[1].points[both]) @ weights)
        made[what] = float((moved / apart[both]).max(initial=0.0))
        made[f"{what}_pairs"] = int(both.sum())
    return made


def simulate(n: int, d: int, repeats: int, l2: float, seed: int) -> dict[str, float]:
    """Logistic truth, ``repeats`` samples of n: how often the truth lies in the ellipsoid of the joint level;
    how often one person's lower bound holds (one-sided level (1 + 0.95)/2 = 0.975); how often the truth and
    a model of a second sample accept everybody's recourse."""
    generator = np.random.default_rng([seed, n, d])
    truth = generator.normal(size=d + 1) / np.sqrt(d) * 1.5
    truth[-1] = -0.5
    inside = below = true_ok = next_ok = answered = models = 0
    for _ in range(repeats):
        X = generator.normal(size=(n, d))
        chance = 1 / (1 + np.exp(-with_bias(X) @ truth))
        drawn = [(generator.random(n) < chance).astype(int) for _ in range(2)]
        if any(y.min() == y.max() for y in drawn):
            continue
        layer, other = (fit_layer(logistic_problem(X, y, l2=l2)) for y in drawn)
        models += 1
        joint, single = (eps_from_level(layer, LEVEL, joint=j) for j in (True, False))
        away = layer.theta - truth
        inside += away @ layer.hessian @ away <= 2 * joint
        one = np.r_[generator.normal(size=d), 1.0]
        below += Ellipsoid.of(layer, single).worst_logit(one[None])[0] <= truth @ one
        ellipsoid = Ellipsoid.of(layer, joint)
        if joint >= ellipsoid.largest_eps():
            continue
        x0 = generator.normal(size=(20, d))
        x0 = x0[with_bias(x0) @ layer.theta < 0]
        if not len(x0):
            continue
        free = np.full_like(x0, np.inf)
        points = solve_box(ellipsoid, x0, np.ones(d), -free, free, tau=0.0).points
        answered += 1
        true_ok += bool((with_bias(points) @ truth >= 0).all())
        next_ok += bool((with_bias(points) @ other.theta >= 0).all())
    return {
        "samples": models,
        "joint": inside / models,
        "one_person": below / models,
        "truth_accepts_all": true_ok / max(answered, 1),
        "next_model_accepts_all": next_ok / max(answered, 1),
        "answered": answered / models,
    }


def main(quick: bool) -> None:
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for name in tables.NAMES:
        found = [
            lipschitz(cell, 100 if quick else 1000)
            for cell in cells(name, SEEDS[:1] if quick else SEEDS, 4000)
        ]
        row = {"what": f"Lipschitz, {name}", "cells": len(found)}
        row |= {key: max(f[key] for f in found) for key in ("fixed", "one_way")}
        row["pairs"] = sum(f["fixed_pairs"] for f in found)
        rows.append(row)
        print(json.dumps(row), f"{time.perf_counter() - began:.0f} s", flush=True)
    for n, d in ((200, 3), (500, 5), (1000, 10), (2000, 20), (5000, 10)):
        for l2 in (1e-6, 1e-3):
            row = {"what": "coverage", "n": n, "d": d, "l2": l2}
            row |= simulate(n, d, 50 if quick else 2000 if n <= 1000 else 600, l2, 0)
            rows.append(row)
            print(json.dumps(row), f"{time.perf_counter() - began:.0f} s", flush=True)
    if not quick:
        note = (
            "fixed: one box for everybody, random weights, at the default eps; one_way: every third "
            "feature may only grow from where the person stands (the theorem does not cover it). Nominal "
            "coverage: joint 0.95; one_person 0.975 (lower bound at two-sided level 0.95); "
            "truth_accepts_all at least 0.95. next_model: fitted to fresh labels of the same rows, so that "
            "two errors meet; no level is promised. l2 1e-3 is the default penalty."
        )
        save("recourse_stability", facts(seeds=list(SEEDS)), rows, note)
    constant = max(row["fixed"] for row in rows if "fixed" in row)
    print(json.dumps({"claim": "recourse.lipschitz", "figure": round(constant, 7)}))
    covered = [row for row in rows if row["what"] == "coverage" and row["l2"] == 1e-6]
    print(
        json.dumps(
            {
                "claim": "recourse.coverage-joint",
                "figure": round(max(abs(r["joint"] - LEVEL) for r in covered), 4),
            }
        )
    )
    off = max(abs(r["one_person"] - (1 + LEVEL) / 2) for r in covered)
    print(json.dumps({"claim": "recourse.coverage-person", "figure": round(off, 4)}))
    least = min(r["truth_accepts_all"] for r in covered)
    print(json.dumps({"claim": "recourse.coverage-recourse", "figure": round(least, 4)}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few pairs and samples")
    main(parser.parse_args().quick)
