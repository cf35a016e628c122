"""People per second of the public call against the batch (10 to 10^5), features (5 to 500) and threads.

python bench/recourse/bench_scaling.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evidence"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from cells import with_bias
from machine import facts, save

from recengine.recourse import compile_constraints
from recengine_plugins.ellice.config import ElliCEConfig
from recengine_plugins.ellice.method import ElliCE

FEATURES = (5, 20, 50, 100, 200, 500)
BATCHES = (10, 100, 1_000, 10_000, 100_000)


def fitted(d: int) -> tuple[ElliCE, np.ndarray]:
    """A model of d correlated features (10 d rows, at least 500) and rejected people."""
    generator = np.random.default_rng(d)
    mix = np.eye(d) + 0.3 * generator.normal(size=(d, d)) / np.sqrt(d)
    truth = generator.normal(size=d) * 2 / np.sqrt(d)
    X = generator.normal(size=(max(500, 10 * d), d)) @ mix
    y = (generator.random(len(X)) < 1 / (1 + np.exp(-X @ truth))).astype(int)
    method = ElliCE(X, y, ElliCEConfig(l2=1e-3))
    return method, mix


def people_of(method: ElliCE, mix: np.ndarray, n: int) -> np.ndarray:
    generator = np.random.default_rng(1)
    made: list[np.ndarray] = []
    while sum(map(len, made)) < n:
        x = generator.normal(size=(min(2 * n + 20, 50_000), len(mix))) @ mix
        made.append(x[with_bias(x) @ method.layer.theta < 0])
    return np.concatenate(made)[:n]


def main(quick: bool) -> None:
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for d in FEATURES:
        method, mix = fitted(d)
        names = list(method.classifier.names)
        # a third may only grow, one in five never changes, all within 3 deviations
        rules = {
            name: {"range": [-3.5, 3.5], "direction": "up" if j % 3 == 0 else "any", "immutable": j % 5 == 4}
            for j, name in enumerate(names)
        }
        limits = {"box": compile_constraints({"features": rules}, names), "free": None}
        for n in BATCHES:
            if quick and n > 1_000:
                continue
            people = people_of(method, mix, n)
            for what, constraints in limits.items():
                for threads in (1, 2):
                    last = [r for r in rows if (r["d"], r["limits"], r["threads"]) == (d, what, threads)]
                    expected = n / last[-1]["per_second"] if last else 0.0
                    if expected > (2 if quick else 100):
                        continue
                    torch.set_num_threads(threads)
                    taken = []
                    for _ in range(5 if n <= 1_000 else 3 if expected < 2 else 1):
                        start = time.perf_counter()
                        answer = method.solve(people, constraints)
                        taken.append(time.perf_counter() - start)
                    found = np.isfinite(answer.points).all(axis=1)
                    rows.append(
                        {
                            "d": d, "n": n, "limits": what, "threads": threads,
                            "seconds": float(np.median(taken)),
                            "per_second": n / float(np.median(taken)), "found": float(found.mean()),
                            "largest_gap": float(np.nanmax(answer.details["gap"], initial=0.0)),
                        }
                    )  # fmt: skip
                    print(json.dumps(rows[-1]), f"{time.perf_counter() - began:.0f} s", flush=True)
    if not quick:
        note = (
            "ElliCE.solve with its checks and words; synthetic models; box: all within bounds, a third of "
            "the features one-way, one in five immutable; free: no limits. Default eps. BLAS threads "
            "follow the environment (1). Cells that the batch before says would take more than 100 s were "
            "left out."
        )
        save("recourse_scaling", facts(torch=torch.__version__), rows, note)
    at = [r for r in rows if r["d"] == 20 and r["limits"] == "box" and r["threads"] == 2]
    largest = max(r["n"] for r in at)
    rate = next(r["per_second"] for r in at if r["n"] == (10_000 if largest >= 10_000 else largest))
    print(json.dumps({"claim": "recourse.people-per-second", "figure": round(rate)}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="batches of at most 1,000")
    main(parser.parse_args().quick)
