"""A training step in float32 beside bf16-mixed: four sequence models on Amazon Beauty, one thread.

    python bench/sequential/bench_precision.py [--quick] [--rounds 5]

Steps of 128 sequences of at most 50 events (leave-two-out), width 64, two blocks, softmax over the whole
catalogue. Both precisions meet the same batches, by turns; a round's figure is the mean over its batches, the
table's the median over rounds. bf16-mixed is ``torch.autocast``, which ``training.precision`` asks for.
Without Beauty, or with --quick, on generated sequences.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import record
from datasets import ROOT, load
from steps import generated

from recengine.contracts.batch import SequenceBatch, StepContext
from recengine.contracts.model import DataFacts
from recengine.data import Interactions, SplitConfig, split
from recengine.hooks import host
from recengine.training import resolve
from recengine.training.build import build_model
from recengine.training.feeding import make_feeder
from recengine.training.optimisation import make_optimizer

MODELS = ("sasrec", "bert4rec", "cotten4rec", "hstu")
BATCHES = 12


class Steps:
    """Training steps of one model in one precision."""

    def __init__(self, model: str, facts: DataFacts, low: bool) -> None:
        settings = {"model": {"hidden_dim": 64, "max_length": 50}, "loss": {"name": "softmax"}}
        config = resolve(model, settings, host())
        self.low = low
        self.network: Any = build_model(model, config, facts, 0, host()).train()
        self.optimizer = make_optimizer(self.network.parameters(), config.training)

    def seconds(self, batches: Sequence[SequenceBatch]) -> float:
        """Mean wall seconds of a step."""
        began = time.perf_counter()
        for batch in batches:
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.low):
                loss = self.network.training_loss(batch, StepContext())
            loss.backward()
            self.optimizer.step()
        return (time.perf_counter() - began) / len(batches)


def measure(model: str, train: Interactions, rounds: int) -> dict[str, Any]:
    """A row of the table."""
    facts = DataFacts(train.n_users, train.n_items)
    sides = {"float32": Steps(model, facts, False), "bf16-mixed": Steps(model, facts, True)}
    feeder = make_feeder(train, sides["float32"].network.feed(), 128, 0, host())
    found: dict[str, list[float]] = {name: [] for name in sides}
    for epoch in range(rounds + 1):
        batches = [batch for batch, _ in zip(feeder.epoch(epoch), range(BATCHES), strict=False)]
        for name, side in sides.items():
            found[name].append(side.seconds(batches))
    exact, low = (median(times[1:]) for times in found.values())
    return {"model": model, "float32, ms": 1e3 * exact, "bf16-mixed, ms": 1e3 * low, "share": low / exact}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="generated sequences, one round, nothing written"
    )
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.quick or not ROOT.is_dir():
        train, rounds = generated(300, 12, 400), 1
    else:
        train, rounds = split(load("beauty"), SplitConfig(strategy="leave_two_out")).train, asked.rounds
    rows = [measure(model, train, rounds) for model in MODELS]
    print("\n".join(record.table(rows)))
    if train.n_items > 400:
        told = record.head("bench_precision.py", threads=1, rounds=rounds, rows=rows)
        about = ["Milliseconds of a step; " + " ".join((__doc__ or "").split("\n\n")[2].split())]
        record.write(
            "sequential_precision", told, "A step by its precision", [*about, "", *record.table(rows)]
        )


if __name__ == "__main__":
    main()
