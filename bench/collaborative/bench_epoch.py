"""An epoch of MF + SL by ``recengine.fit``, beside the steps of training that are in it.

    python bench/collaborative/bench_epoch.py [--threads 2] [--quick]

Gowalla (IR-Benchmark), 64 factors, 1,000 negatives a row that the user did not meet, batches of 1,024. An
epoch is measured inside ``fit`` (the second of two: the first warms up), a step as in
bench_collaborative_cost.py; the ratio says what the loop around the steps costs. --quick: drawn data.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from bench_collaborative_cost import (
    BATCH,
    FACTORS,
    NEGATIVES,
    SHARED,
    TEMPERATURE,
    _loss_of,
    built,
    stepper,
    train_of,
)
from bench_collaborative_cost import batches as batches_of

import recengine
from recengine import data
from recengine.data.splitting import SplitConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "native"))
from common import facts

RESULT = Path(__file__).resolve().parents[1] / "results" / "collaborative_epoch.json"
SETTINGS = {
    "model": {"factors": FACTORS},
    "loss": {"name": "sl", "temperature": TEMPERATURE, "negatives": NEGATIVES, "shared": False},
    "split": {"strategy": "given"},
    "training": {"epochs": 2, "batch_size": BATCH, "learning_rate": 1e-2, "patience": 0, "evaluate_every": 2},
}


def step_seconds(train: data.Interactions, repeats: int) -> float:
    """Median of ``repeats`` steps after five."""
    model = built("mf", "sl", train, temperature=TEMPERATURE, negatives=NEGATIVES)
    step = stepper(list(model.parameters()), batches_of(train, BATCH, NEGATIVES), _loss_of(model))
    taken = []
    for _ in range(repeats + 5):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[5:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.quick:
        generator = np.random.default_rng(0)
        events = data.Interactions.from_arrays(
            np.repeat(np.arange(200), 40), generator.integers(0, 2000, 8000)
        )
        settings = {**SETTINGS, "split": {"strategy": "ratio_random"}}
        train = data.split(events, SplitConfig(strategy="ratio_random")).train
    else:
        events, settings, train = data.read(SHARED / "irbench/iid/gowalla"), SETTINGS, train_of("gowalla")
    fitted = recengine.fit("mf", events, settings=settings, seed=0)
    epoch = fitted.history[-1]["seconds"]
    steps = -(-len(train) // BATCH)
    step = step_seconds(train, 5 if asked.quick else 60)
    figure = round(epoch / (steps * step), 3)
    told = {
        "facts": facts(), "threads": asked.threads, "seconds an epoch": epoch, "steps": steps,
        "seconds a step": step, "claims": {"collaborative.epoch-overhead": figure},
    }  # fmt: skip
    if not asked.quick:
        RESULT.write_text(json.dumps(told, indent=1) + "\n")
        RESULT.with_suffix(".md").write_text(
            "# An epoch of MF + SL on Gowalla\n\n"
            f"{told['facts']['processor']}, {asked.threads} threads, torch {told['facts']['torch']}, "
            f"{told['facts']['date']}. {steps} steps of {1e3 * step:.1f} ms "
            f"(median) are {steps * step:.1f} s; the epoch by `recengine.fit` took {epoch:.1f} s, "
            f"{figure} of that.\n"
        )
    print(json.dumps({"claim": "collaborative.epoch-overhead", "figure": figure}))


if __name__ == "__main__":
    main()
