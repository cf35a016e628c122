"""Against the library ellice 0.1.4 with the same model, Hessian, eps and box: length and seconds a person.

python bench/recourse/bench_ellice.py [--quick] [--sets NAME...]    (python bench/peers/install.py ellice)
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evidence"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import tables
from cells import EPS, L2, SEEDS, Cell, cells, interval, with_bias
from machine import facts, save

from peers.runner import run
from recengine.recourse import Constraints, compile_constraints
from recengine_plugins.ellice.box import solve_box
from recengine_plugins.ellice.config import ElliCEConfig
from recengine_plugins.ellice.method import ElliCE
from recengine_plugins.ellice.rashomon import Ellipsoid

HERE = Path(__file__).resolve().parent
BATCH = 1_000
VARIANTS = {
    "defaults": {},
    "finer": {"learning_rate": 0.01, "proximity_weight": 0.01, "max_iterations": 3000},
}
"""finer: steps a tenth as long and a pull towards the person; shorter answers, more of them a person."""


def inside(cell: Cell, people: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Moved into the box (the library clips people to it) and still rejected."""
    moved = np.clip(people, cell.low, cell.high)
    return moved[with_bias(moved) @ cell.layer.theta < -margin]


def crowd(cell: Cell, size: int) -> np.ndarray:
    """``size`` rejected people: all there are, then those with noise of 0.05 deviations."""
    generator = np.random.default_rng(0)
    base = inside(cell, np.r_[cell.X, cell.test])
    people = base[generator.permutation(len(base))[:size]]
    while len(people) < size:
        more = base[generator.integers(len(base), size=size)]
        more = inside(cell, more + 0.05 * generator.normal(size=more.shape))
        people = np.r_[people, more][:size]
    return people


def limits_of(cell: Cell) -> Constraints:
    names = [f"x{j}" for j in range(cell.X.shape[1])]
    rules = {
        name: {"range": [float(a), float(b)]} for name, a, b in zip(names, cell.low, cell.high, strict=True)
    }
    return compile_constraints({"features": rules}, names)


def our_seconds(cell: Cell, eps: float, threads: int, repeats: int) -> dict[str, float]:
    """Seconds a person in a batch of 1,000: the solver, and the public call with its checks and words."""
    people = crowd(cell, BATCH)
    low, high = cell.box(people)
    weights = np.ones(people.shape[1])
    method = ElliCE(cell.X, cell.y, ElliCEConfig(eps=eps, l2=L2, margin=0.0))
    limits = limits_of(cell)
    ellipsoid = Ellipsoid.of(cell.layer, eps)
    torch.set_num_threads(threads)
    taken: dict[str, list[float]] = {"solver": [], "public": []}
    for _ in range(repeats):
        began = time.perf_counter()
        solve_box(ellipsoid, people, weights, low, high, tau=0.0)
        middle = time.perf_counter()
        method.solve(people, limits)
        taken["solver"].append(middle - began)
        taken["public"].append(time.perf_counter() - middle)
    return {name: float(np.median(values)) / BATCH for name, values in taken.items()}


def compare(cell: Cell, eps: float, people: np.ndarray, points: np.ndarray) -> dict[str, Any]:
    """Lengths where the library's point is robust in float64; who got none."""
    ellipsoid = Ellipsoid.of(cell.layer, eps)
    low, high = cell.box(people)
    ours = solve_box(ellipsoid, people, np.ones(people.shape[1]), low, high, tau=0.0)
    theirs_ok = np.isfinite(points).all(axis=1)
    theirs_ok[theirs_ok] = ellipsoid.worst_logit(with_bias(points[theirs_ok])) >= 0
    both = theirs_ok & ours.feasible
    mine, other = (x[both] - people[both] for x in (ours.points, points))
    l2, l2_other = np.linalg.norm(mine, axis=1), np.linalg.norm(other, axis=1)
    return {
        "ratio": l2_other / l2,
        "l2": l2,
        "l2_library": l2_other,
        "l1": np.abs(mine).sum(axis=1),
        "l1_library": np.abs(other).sum(axis=1),
        "longest_excess": float((l2 / l2_other - 1).max(initial=-1.0)),
        "only_ours": int((ours.feasible & ~theirs_ok).sum()),
        "only_library": int((theirs_ok & ~ours.feasible).sum()),
        "asked": len(people),
    }


def one_set(name: str, variant: str, quick: bool, folder: Path) -> dict[str, Any]:
    seeds = SEEDS[:1] if quick else SEEDS
    chosen = [cell for cell in cells(name, seeds) if (not quick and variant == "defaults") or cell.fold == 0]
    asked, given = [], []
    for k, cell in enumerate(chosen):
        people = inside(cell, cell.rejected)[: 5 if quick or variant == "finer" else 20]
        eps = min(EPS, 0.5 * cell.star())
        file = folder / f"{name}-{variant}-{k}.npz"
        np.savez(file, X=cell.X, y=cell.y, theta=cell.layer.theta, people=people)
        asked.append((cell, eps, people))
        given.append(
            {"file": str(file), "eps": eps, "l2": L2, "requires": "robust", "options": VARIANTS[variant]}
        )
    reply = run("ellice", HERE / "peer_ellice.py", {"cells": given, "threads": 1})
    rows, seconds = [], []
    for (cell, eps, people), entry, got in zip(asked, given, reply.answer["cells"], strict=True):
        rows.append(compare(cell, eps, people, np.load(entry["file"] + ".points.npy")))
        seconds += got["seconds"]
    ratio = np.concatenate([row["ratio"] for row in rows])
    by_seed = {seed: [] for seed in seeds}
    for row, (cell, _, _) in zip(rows, asked, strict=True):
        by_seed[cell.seed].append(row["ratio"])
    per_seed = [np.concatenate(values).mean() for values in by_seed.values()]
    low, high = interval(np.array(per_seed))
    part = {
        key: float(np.concatenate([row[key] for row in rows]).mean())
        for key in ("l2", "l2_library", "l1", "l1_library")
    }
    return {
        "set": name,
        "variant": variant,
        "d": chosen[0].X.shape[1],
        "people": len(ratio),
        **part,
        "ratio": float(ratio.mean()),
        "ratio_low": low,
        "ratio_high": high,
        "shorter_share": float(1 - (part["l2"] / part["l2_library"])),
        "longest_excess": max(row["longest_excess"] for row in rows),
        "only_ours": sum(row["only_ours"] for row in rows),
        "only_library": sum(row["only_library"] for row in rows),
        "library_ms": 1e3 * float(np.median(seconds)),
        "library_mean_ms": 1e3 * float(np.mean(seconds)),
    }


def main(quick: bool, names: list[str]) -> None:
    rows: list[dict[str, Any]] = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            row = one_set(name, "defaults", quick, Path(folder))
            finer = one_set(name, "finer", quick, Path(folder))
        cell = next(cells(name, (0,)))
        eps = min(EPS, 0.5 * cell.star())
        for threads in (1, 2):
            took = our_seconds(cell, eps, threads, 3 if quick else 31)
            row[f"our_us_{threads}"] = 1e6 * took["solver"]
            row[f"public_us_{threads}"] = 1e6 * took["public"]
        row["faster_1"] = 1e3 * row["library_ms"] / row["public_us_1"]
        row["faster_2"] = 1e3 * row["library_ms"] / row["public_us_2"]
        rows += [row, finer]
        print(json.dumps(row), flush=True)
        print(json.dumps(finer), flush=True)
    plain = [row for row in rows if row["variant"] == "defaults"]
    if not quick and set(names) == set(tables.NAMES):
        note = (
            "Same theta, Hessian (l2 1e-3, bias included), eps (0.01, at most half of eps*) and box on "
            "both sides; 4 folds x 5 seeds, 20 rejected test people a cell (finer: the first fold, 5 "
            "people), tables of at most 8,000 rows. ratio: length of the library's answer over ours, a "
            "person, where its answer holds in float64 (95 % interval over seeds). library_ms: median of "
            "single calls after two to warm up, one thread; our_us, public_us: median of 31 batches of "
            "1,000 (solver alone; ElliCE.solve), 1 and 2 threads. finer: learning rate 0.01 and proximity "
            "weight 0.01 instead of 0.1 and 0."
        )
        save("recourse_ellice", facts(torch=torch.__version__, ellice="0.1.4", seeds=list(SEEDS)), rows, note)
    shorter = float(np.mean([1 - 1 / row["ratio"] for row in plain]))
    print(
        json.dumps({"claim": "recourse.never-longer", "figure": max(row["longest_excess"] for row in rows)})
    )
    print(json.dumps({"claim": "recourse.shorter-percent", "figure": round(100 * shorter, 1)}))
    least, middle = (
        min(row["faster_1"] for row in plain),
        float(np.median([row["faster_1"] for row in plain])),
    )
    print(json.dumps({"claim": "recourse.faster-least", "figure": round(least, 1)}))
    print(json.dumps({"claim": "recourse.faster-median", "figure": round(middle, 1)}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one fold, five people a set")
    parser.add_argument(
        "--sets", nargs="*", default=list(tables.NAMES), help="other than all: nothing is saved"
    )
    asked = parser.parse_args()
    main(asked.quick, asked.sets)
