"""SASRec and BERT4Rec beside RecTools 0.19: CPU time an epoch, peak memory, quality.

    python bench/sequential/bench_peers.py time [--data ml-100k] [--epochs 6] [--rounds 2] [--threads 1 2]
        [--every 1]
    python bench/sequential/bench_peers.py quality [--epochs 40] [--seeds 1]
    python bench/sequential/bench_peers.py report
    python bench/sequential/bench_peers.py --quick

Leave-last-one-out: both sides are fitted on everything but each user's last event, get the same rows with the
order in time written out (ties shuffled by a seeded hash), width 64, 2 blocks, the last 50 events, 128
sequences a step, full softmax, everything else at each side's defaults (RecTools' BERT4Rec hides 15 % of the
events, ours 20 %). CPU seconds of the whole ``fit`` over its epochs and peak resident memory of the process
(libraries included; what the imports alone take is measured too), sides by turns, medians over rounds.
Quality: NDCG@10 and recall@10 of the last event, after equally many epochs, one function for both sides; and
the peak of that whole job, which recommends ten items to everybody as well.
Cells go to a store as they are finished; ``report`` writes bench/results/sequential_peers.* of it and of the
cells that are kept there already.
--every 3: of every third person alone, all of whose events are kept, where a whole epoch of a peer takes too
long; its share stands in the table.
RecTools runs in its own environment: python bench/peers/install.py rectools. So does RecBole (--sides
recbole), whose epoch is another thing: a training sequence of every prefix of a user's events. It is shown,
not claimed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import mean, median
from typing import Any

import datasets
import numpy as np
import record

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers import runner

HERE = Path(__file__).resolve().parent
SIDES = {
    "recengine": (None, "ours_sequential.py"),
    "rectools": ("rectools", "peer_rectools.py"),
    "recbole": ("recbole", "peer_recbole.py"),
}
MODELS = ("sasrec", "bert4rec")
KEY = ("kind", "side", "model", "data", "every", "seed", "threads", "epochs")  # of a cell
EARLIER = "Intel(R) Xeon(R) Processor"  # of cells that do not name theirs
KEPT = record.RESULTS / "sequential_peers.json"


def leave_last_out(name: str, every: int) -> tuple[np.ndarray, dict[int, int]]:
    """Training rows (user, item, rank in time) and the last item of each user, of every so many users one."""
    data = datasets.load(name)
    rows = np.stack([data.user, data.item, np.arange(len(data))], axis=1).astype(np.int64)
    rows = rows[rows[:, 0] % every == 0]
    last = np.append(rows[1:, 0] != rows[:-1, 0], True)
    return rows[~last], dict(zip(rows[last, 0].tolist(), rows[last, 1].tolist(), strict=True))


def measure(lists: np.ndarray, targets: dict[int, int]) -> dict[str, float]:
    """Recall@10 and NDCG@10 of rows (user, rank, item); a user without lists counts 0."""
    gains = [1 / np.log2(rank + 1) for user, rank, item in lists.tolist() if targets[user] == item]
    return {"recall@10": len(gains) / len(targets), "ndcg@10": float(sum(gains)) / len(targets)}


def once(
    side: str, model: str, data: str, every: int, seed: int, epochs: int, threads: int, ask: bool
) -> dict[str, Any]:
    """One fit of one side in a process of its own."""
    peer, script = SIDES[side]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        train, targets = leave_last_out(data, every)
        np.save(folder / "train.npy", train)
        given = {
            "train": str(folder / "train.npy"),
            "lists": str(folder / "lists.npy"),
            "seed": seed,
            "model": model,
            "epochs": epochs,
            "threads": threads,
            "ask": ask,
        }
        done = runner.run(peer, HERE / script, given, threads=threads)
        figures = measure(np.load(folder / "lists.npy"), targets) if ask else {}
    return {
        "kind": "quality" if ask else "time",
        "side": side,
        "model": model,
        "data": data,
        "every": every,
        "seed": seed,
        "epochs": epochs,
        "threads": threads,
        "cpu_s_per_epoch": done.answer["fit"]["cpu_s"] / epochs,
        "wall_s_per_epoch": done.answer["fit"]["wall_s"] / epochs,
        "peak_mb": done.peak_mb,
        "processor": record.processor(),
        **figures,
    }


def by_turns(asked: argparse.Namespace, store: Path, ask: bool) -> None:
    """All cells that the store lacks."""
    held = cells(store)
    rounds = asked.seeds if ask else asked.rounds
    for turn in range(rounds):
        for model in asked.models:
            for threads in asked.threads[:1] if ask else asked.threads:
                for side in asked.sides if turn % 2 == 0 else reversed(asked.sides):
                    key = {
                        "kind": "quality" if ask else "time",
                        "side": side,
                        "model": model,
                        "data": asked.data,
                        "every": asked.every,
                        "seed": turn,
                        "threads": threads,
                        "epochs": asked.epochs,
                    }
                    if any(all(one[name] == value for name, value in key.items()) for one in held):
                        continue
                    found = once(side, model, asked.data, asked.every, turn, asked.epochs, threads, ask)
                    with store.open("a") as file:
                        file.write(json.dumps(found) + "\n")
                    print(json.dumps(found), flush=True)


def cells(store: Path) -> list[dict[str, Any]]:
    lines = store.read_text().splitlines() if store.exists() else []
    return [{"every": 1, **json.loads(line)} for line in lines]


def merged(kept: list[dict[str, Any]], newer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kept cells, those that were measured again replaced, then the others."""
    return list({tuple(cell.get(name) for name in KEY): cell for cell in [*kept, *newer]}.values())


def report(held: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, float]]:
    """Times, qualities, claims."""
    times, qualities, figures = [], [], {}
    asked = {(c["data"], -c["every"], c["model"], c["threads"]) for c in held if c["kind"] == "time"}
    for data, less, model, threads in sorted(asked):  # a part of the people first: the whole overrules it
        wanted = ("time", data, -less, model, threads)
        rows = {
            side: [
                c
                for c in held
                if (c["kind"], c["data"], c["every"], c["model"], c["threads"]) == wanted
                and c["side"] == side
            ]
            for side in SIDES
        }
        rows = {side: found for side, found in rows.items() if found}
        if not {"recengine", "rectools"} <= rows.keys():
            continue
        cpu = {side: median(c["cpu_s_per_epoch"] for c in found) for side, found in rows.items()}
        wall = {side: median(c["wall_s_per_epoch"] for c in found) for side, found in rows.items()}
        peak = {side: median(c["peak_mb"] for c in found) for side, found in rows.items()}
        times.append(
            {
                "data": data,
                "people": _people(-less),
                "model": model,
                "threads": threads,
                "CPU s an epoch": cpu["recengine"],
                "RecTools": cpu["rectools"],
                "CPU ratio": cpu["recengine"] / cpu["rectools"],
                "wall ratio": wall["recengine"] / wall["rectools"],
                "peak MB": peak["recengine"],
                "RecTools MB": peak["rectools"],
                "peak ratio": peak["recengine"] / peak["rectools"],
                "RecBole": f"{cpu['recbole']:.1f} s, {peak['recbole']:.0f} MB"
                if "recbole" in cpu
                else "not run",
                "rounds": len(rows["recengine"]),
            }
        )
        name = f"{model}-{data}-{threads}"
        figures[f"sequential.peer-cpu-{name}"] = times[-1]["CPU ratio"]
        figures[f"sequential.peer-memory-{name}"] = times[-1]["peak ratio"]
    compared = {(c["data"], -c["every"], c["model"], c["epochs"]) for c in held if c["kind"] == "quality"}
    for data, less, model, epochs in sorted(compared):  # of the same people, the longest fits overrule
        means: dict[str, float] = {}
        peaks: dict[str, float] = {}
        for side in SIDES:
            wanted = ("quality", side, data, -less, model, epochs)
            what = ("kind", "side", "data", "every", "model", "epochs")
            mine = [c for c in held if tuple(c[name] for name in what) == wanted]
            if mine:
                means[side] = mean(c["ndcg@10"] for c in mine)
                peaks[side] = median(c["peak_mb"] for c in mine)
                qualities.append(
                    {
                        "data": data,
                        "people": _people(-less),
                        "model": model,
                        "side": side,
                        "seeds": len(mine),
                        "epochs": epochs,
                        "NDCG@10": means[side],
                        "Recall@10": mean(c["recall@10"] for c in mine),
                        "peak MB": peaks[side],
                    }
                )
        if {"recengine", "rectools"} <= means.keys():
            figures[f"sequential.peer-ndcg-{model}-{data}"] = means["recengine"] / means["rectools"]
            figures[f"sequential.peer-job-memory-{model}-{data}"] = peaks["recengine"] / peaks["rectools"]
    return times, qualities, figures


def _people(every: int) -> str:
    return "all" if every == 1 else f"1 of {every}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["time", "quality", "report"], default="report")
    parser.add_argument("--data", default="ml-100k")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=["recengine", "rectools"])
    parser.add_argument("--epochs", type=int, default=0, help="0: 6 for time, 40 for quality")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="one of every so many people")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--store", type=Path, default=Path(tempfile.gettempdir()) / "recengine_peers.jsonl")
    parser.add_argument("--cut", help="a sentence on what was left out, for the page; else the earlier one")
    parser.add_argument(
        "--quick", action="store_true", help="one round of one epoch, few people; nothing is written"
    )
    asked = parser.parse_args()
    asked.epochs = asked.epochs or (40 if asked.what == "quality" else 6)
    if asked.quick:
        asked.epochs, asked.rounds, asked.seeds, asked.threads = 1, 1, 1, asked.threads[:1]
        asked.every *= 1 if asked.data == "ml-100k" else 10
    if asked.quick or asked.what != "report":
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "cells.jsonl" if asked.quick else asked.store
            by_turns(asked, store, ask=asked.what == "quality")
            record.tell(report(cells(store))[2])
        return 0
    before = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    held = merged(before.get("cells", []), cells(asked.store))
    if not held:
        parser.error(f"no cells in {asked.store} nor in {KEPT}: nothing to report")
    times, qualities, figures = report(held)
    cut = before.get("cut", "") if asked.cut is None else asked.cut
    head = record.head("bench_peers.py", figures=figures, peers={"rectools": "0.19.0", "recbole": "1.2.1"})
    head["processor"] = ", ".join(sorted({cell.get("processor", EARLIER) for cell in held}))
    text = [
        "Ours beside RecTools 0.19.0, same rows, sizes and epochs, full softmax. CPU seconds are of the "
        "whole fit; peak is the resident set of the process, imports included.",
        "",
        *record.table(times),
        "",
        "Quality after equally many epochs (last event held out, no validation, seen items left out):",
        "",
        *record.table(qualities),
        "",
        cut,
    ]
    record.write(
        "sequential_peers",
        {**head, "times": times, "qualities": qualities, "cells": held, "cut": cut},
        "SASRec and BERT4Rec beside RecTools",
        text,
    )
    record.tell(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
