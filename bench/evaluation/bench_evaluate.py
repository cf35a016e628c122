"""A whole evaluation: 5,000 users x 20,000 items x 64 dimensions, seen items masked, top-10, every metric of
the default set, per-user rows and intervals.

    python bench/evaluation/bench_evaluate.py [--quick] [--threads 1]

Peers on the same task (measured elsewhere, see docs): plain torch 0.28 s and implicit 0.28 s for the lists
alone, RecTools 0.34 to 0.70 s, RecBole 0.76 to 1.00 s.
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

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench" / "native"))

from common import facts  # noqa: E402

from recengine.contracts.batch import HistoryBatch  # noqa: E402
from recengine.data import EvalTask, Interactions, Vocabulary  # noqa: E402
from recengine.evaluation import Protocol, evaluate  # noqa: E402
from recengine.evaluation.protocol import task_fingerprint  # noqa: E402

USERS, ITEMS, WIDTH = 5000, 20_000, 64


class Table:
    """Represents: a row a user, a row an item."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        self.users, self.items = (torch.randn(n, WIDTH, generator=g) for n in (USERS, ITEMS))

    def user_vectors(self, histories: HistoryBatch) -> torch.Tensor:
        return self.users[histories.users]

    def item_vectors(self) -> torch.Tensor:
        return self.items

    def item_bias(self) -> None:
        return None


def task() -> EvalTask:
    rng = np.random.default_rng(0)
    counts = rng.integers(55, 220, USERS)
    user = np.repeat(np.arange(USERS), counts).astype(np.int32)
    item = rng.integers(0, ITEMS, counts.sum()).astype(np.int32)
    ids = [Vocabulary(np.arange(n, dtype=np.int64)) for n in (USERS, ITEMS)]
    history = Interactions.from_rows(user, item, None, None, *ids)
    every = np.arange(USERS)
    return EvalTask("test", every, np.append(every, USERS), rng.integers(0, ITEMS, USERS), history)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    asked, model = task(), Table()
    protocol = Protocol(data=task_fingerprint(asked))
    taken: dict[str, list[float]] = {"default metrics": [], "default metrics, diversity and tail": []}
    for _ in range(3 if options.quick else 11):
        for name, values in taken.items():
            metrics = None if name == "default metrics" else _every()
            start = time.perf_counter()
            evaluate(model, asked, protocol=protocol, metrics=metrics).summary()
            values.append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    record = {
        "command": "python bench/evaluation/bench_evaluate.py",
        "facts": facts(),
        "threads": options.threads,
        "shape": [USERS, ITEMS, WIDTH],
        "median_s": medians,
        "best_s": {name: min(values) for name, values in taken.items()},
    }
    for name, seconds in medians.items():
        print(f"{name:40} {seconds:.3f} s")
    if not options.quick:
        results = ROOT / "bench" / "results"
        results.mkdir(exist_ok=True)
        (results / "evaluate.json").write_text(json.dumps(record, indent=1) + "\n")
        lines = [f"| {name} | {seconds:.3f} |" for name, seconds in medians.items()]
        about = record["facts"]
        head = (
            f"# Evaluation of {USERS} users x {ITEMS} items x {WIDTH}, top-10, seen items masked\n\n"
            f"{about['processor']}, {options.threads} thread, torch {about['torch']}, "
            f"kernels {about['isa']}, {about['date']}. Medians; seed 0. Command: `{record['command']}`.\n\n"
            "| metrics | seconds |\n|---|---|\n"
        )
        (results / "evaluate.md").write_text(head + "\n".join(lines) + "\n")
    print(
        json.dumps({"claim": "foundation.evaluate-seconds", "figure": round(medians["default metrics"], 4)})
    )


def _every() -> list[str]:
    from recengine.evaluation.metrics import DEFAULT

    return [*DEFAULT, "diversity", "tail_ndcg"]


if __name__ == "__main__":
    main()
