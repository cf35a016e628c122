"""SASRec on MovieLens-100k beside RecTools 0.19: CPU time an epoch, and NDCG@10 after as many epochs.

    python bench/sequential/bench_sasrec.py [--quick] [--rounds 3] [--epochs 40]

Leave-last-one-out: both sides are fitted on everything but each user's last event (99,057 rows) and answer
with ten items that the user has not met. Both get the same rows with the same order in time written out
(the third column is a rank, so nobody breaks a tie again), width 64, 2 blocks, the last 50 events, 128
sequences a step, full softmax, everything else at each side's defaults. Two orders of events with one time
stamp: as the rows of the file stand, and shuffled (a seeded hash). One function measures both sides' lists.

CPU seconds of the whole ``fit`` over its epochs, one thread, our side and theirs by turns; medians over
rounds.
RecTools runs in its own environment: python bench/peers/install.py rectools.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers import runner

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
SIDES = {"recengine": (None, "ours_sequential.py"), "rectools": ("rectools", "peer_rectools.py")}


def events() -> np.ndarray:
    """int64 [100000, 3] of u.data: user, item, time, in the order of the file."""
    root = Path(os.environ.get("RECENGINE_DATA", HERE.parents[1].parent / "shared" / "data"))
    with gzip.open(root / "restricted" / "ml-100k" / "u.data.gz") as file:
        return np.loadtxt(file, dtype=np.int64)[:, [0, 1, 3]]


def leave_last_out(rows: np.ndarray, order: str) -> tuple[np.ndarray, dict[int, int]]:
    """Training rows (user, item, rank in time) and the last item of each user."""
    from recengine.data import tie_hash

    number = np.arange(len(rows))
    key = number if order == "rows" else tie_hash(number, 0)
    rows = rows[np.lexsort((key, rows[:, 2], rows[:, 0]))]
    rows[:, 2] = np.arange(len(rows))
    last = np.append(rows[1:, 0] != rows[:-1, 0], True)
    return rows[~last], dict(zip(rows[last, 0].tolist(), rows[last, 1].tolist(), strict=True))


def measure(lists: np.ndarray, targets: dict[int, int]) -> dict[str, float]:
    """HR@10 and NDCG@10 (1 / log2(rank + 1)) of rows (user, rank, item); a user without lists counts 0."""
    gains = [1 / np.log2(rank + 1) for user, rank, item in lists.tolist() if targets[user] == item]
    return {"hr@10": len(gains) / len(targets), "ndcg@10": float(sum(gains)) / len(targets)}


def once(side: str, order: str, seed: int, epochs: int, folder: Path) -> dict[str, Any]:
    train, targets = leave_last_out(events(), order)
    np.save(folder / "train.npy", train)
    given = {"train": str(folder / "train.npy"), "lists": str(folder / "lists.npy"), "seed": seed}
    peer, script = SIDES[side]
    done = runner.run(peer, HERE / script, {**given, "epochs": epochs}, threads=1)
    figures = measure(np.load(folder / "lists.npy"), targets)
    return {
        "side": side,
        "order": order,
        "seed": seed,
        "epochs": epochs,
        "cpu_s_per_epoch": done.answer["fit"]["cpu_s"] / epochs,
        "wall_s_per_epoch": done.answer["fit"]["wall_s"] / epochs,
        "recommend_cpu_s": done.answer["recommend"]["cpu_s"],
        "peak_mb": done.peak_mb,
        "versions": done.answer.get("versions"),
        **figures,
    }


def of(runs: list[dict[str, Any]], key: str, **where: Any) -> list[float]:
    return [run[key] for run in runs if all(run[name] == value for name, value in where.items())]


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def table(runs: list[dict[str, Any]], head: dict[str, Any]) -> str:
    lines = [
        "# SASRec beside RecTools on MovieLens-100k",
        "",
        f"{head['processor']}, 1 thread, {head['date']}, torch {head['torch']}, seeds {head['seeds']}; "
        f"`{head['script']}`",
        "",
        "| side | ties | CPU s / epoch | NDCG@10 | HR@10 | recommend CPU s | peak MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for side in SIDES:
        for order in ("rows", "shuffled"):
            where = {"side": side, "order": order}
            if of(runs, "seed", **where):
                cells = [
                    f"{median(of(runs, 'cpu_s_per_epoch', **where)):.3f}",
                    *(f"{mean(of(runs, name, **where)):.4f}" for name in ("ndcg@10", "hr@10")),
                    f"{median(of(runs, 'recommend_cpu_s', **where)):.2f}",
                    f"{max(of(runs, 'peak_mb', **where)):.0f}",
                ]
                lines.append(f"| {side} | {order} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round of 3 epochs; nothing is written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    asked = parser.parse_args()
    rounds, epochs = (1, 3) if asked.quick else (asked.rounds, asked.epochs)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(rounds):
            for order in ("rows", "shuffled"):
                for side in SIDES if seed % 2 == 0 else reversed(SIDES):
                    runs.append(once(side, order, seed, epochs, Path(folder)))
                    print(json.dumps(runs[-1]), flush=True)
    ratios = [
        ours / theirs
        for order in ("rows", "shuffled")
        for ours, theirs in zip(
            of(runs, "cpu_s_per_epoch", side="recengine", order=order),
            of(runs, "cpu_s_per_epoch", side="rectools", order=order),
            strict=True,
        )
    ]
    figures = {
        "foundation.sasrec-cpu-ratio": median(ratios),
        "foundation.sasrec-ndcg": mean(of(runs, "ndcg@10", side="recengine", order="rows")),
    }
    if not asked.quick:
        import torch

        head = {
            "script": "bench/sequential/bench_sasrec.py",
            "date": datetime.now(UTC).date().isoformat(),
            "processor": processor(),
            "threads": 1,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "seeds": list(range(rounds)),
            "epochs": epochs,
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "sasrec.json").write_text(json.dumps({**head, "figures": figures, "runs": runs}, indent=1))
        (RESULTS / "sasrec.md").write_text(table(runs, head))
    else:
        print(f"quick: {epochs} epochs, so NDCG is not the claim's")
    for claim, figure in figures.items():
        print(json.dumps({"claim": claim, "figure": figure, "epochs": epochs, "rounds": rounds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
