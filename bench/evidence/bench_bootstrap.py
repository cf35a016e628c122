"""Crossed bootstrap of 10 seeds x 100,000 users x 6 metrics, 10,000 draws: seconds and peak memory.

python bench/evidence/bench_bootstrap.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np
from machine import facts, save

from recengine.evaluation.statistics import crossed_bootstrap


def main(draws: int, threads: int) -> None:
    generator = np.random.default_rng(0)
    tables = {f"metric {i}": generator.random((100_000, 10)) for i in range(6)}
    began = time.perf_counter()
    crossed_bootstrap(tables, draws=draws, threads=threads)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    row = {"users": 100_000, "seeds": 10, "metrics": 6, "draws": draws, "seconds": seconds, "peak_gb": peak}
    if draws == 10_000:
        save("evidence_bootstrap", facts(threads=threads, seed=0), [row], "Crossed bootstrap, one run.")
    print(json.dumps(row))
    print(json.dumps({"claim": "evidence.bootstrap-seconds", "figure": round(seconds, 2)}))
    print(json.dumps({"claim": "evidence.bootstrap-gb", "figure": round(peak, 3)}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the draws")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    main(1_000 if asked.quick else 10_000, asked.threads)
