"""Recommending to people who were not in training: latency, throughput, and events one at a time.

    python bench/sequential/bench_serving.py [--quick]

Catalogues of 10,000 and 1,000,000 generated items, width 64, two blocks, histories of 1 to 50 events, ten
items each, seen left out. Latency: ``run.recommend`` with one history in original ids, wall milliseconds,
median and 99th percentile. Throughput: users a second at 1,024 histories a call. Events: ``Sessions.append``
one event of one person, and ``Sessions.extend`` one event each of 1,024 people, with histories that run past
the window; beside it, computing the whole history again for each event. The weights are those of one training
step: they decide nothing here. Claims: the slowest of the models. Threads: OMP_NUM_THREADS, 1 unless set.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

import numpy as np
import record
import torch
from steps import generated

from recengine.data import EvalTask, Split
from recengine.serving import Sessions
from recengine.training import Run, fit

CAUSAL = {"direction": "causal", "objective": "next", "positions": "first"}
ANSWERING: dict[str, dict[str, Any]] = {
    name: {} for name in ("cotten4rec", "bert4rec", "linrec", "sasrec", "hstu", "gru4rec")
}
STREAMING: dict[str, dict[str, Any]] = {"cotten4rec": CAUSAL, "linrec": CAUSAL, "gru4rec": {}}


def made(model: str, items: int, settings: dict[str, Any]) -> Run:
    """A run of one step on 32 generated sequences."""
    train = generated(32, 10, items)
    none = np.empty(0, np.int64)
    split = Split(train, None, EvalTask("test", none, np.zeros(1, np.int64), none, train), {})
    given = {
        "model": {"hidden_dim": 64, "max_length": 50, **settings},
        "loss": {"name": "sampled_softmax", "negatives": 64},
        "training": {"epochs": 1, "device": "cpu"},
    }
    return fit(model, split, settings=given)


def answering(model: str, items: int, calls: int) -> dict[str, Any]:
    run, rng = made(model, items, ANSWERING[model]), np.random.default_rng(0)
    histories = [rng.integers(0, items, rng.integers(1, 51)).tolist() for _ in range(calls)]
    for history in histories[:5]:
        run.recommend({"warm": history}, 10)
    taken = []
    for history in histories:
        begin = time.perf_counter()
        run.recommend({"visitor": history}, 10)
        taken.append(time.perf_counter() - begin)
    batch = {index: rng.integers(0, items, rng.integers(1, 51)).tolist() for index in range(1024)}
    run.recommend(batch, 10)
    rates = []
    for _ in range(3):
        begin = time.perf_counter()
        run.recommend(batch, 10)
        rates.append(len(batch) / (time.perf_counter() - begin))
    return {
        "model": model,
        "items": items,
        "median ms": 1000 * float(np.median(taken)),
        "p99 ms": 1000 * float(np.quantile(taken, 0.99)),
        "users/s at 1024": float(np.median(rates)),
    }


def streaming(model: str, events: int) -> dict[str, Any]:
    run, rng = made(model, 10_000, STREAMING[model]), np.random.default_rng(0)
    sessions = Sessions(run)
    stream = rng.integers(0, 10_000, events).tolist()
    for item in stream[:100]:
        sessions.append("warm", item)
    begin = time.perf_counter()
    for item in stream:
        sessions.append("visitor", item)
    one = events / (time.perf_counter() - begin)
    people = list(range(1024))
    rounds = max(3, events // 40)
    sessions.extend({label: [1] for label in people})
    begin = time.perf_counter()
    for turn in range(rounds):
        sessions.extend({label: [stream[(label + turn) % events]] for label in people})
    many = rounds * len(people) / (time.perf_counter() - begin)
    again = min(events, 200)
    begin = time.perf_counter()
    for count in range(1, again + 1):
        with torch.inference_mode():
            run.model.user_vectors(_history(stream[:count]))
    whole = again / (time.perf_counter() - begin)
    return {
        "model": model,
        "events/s, one person": one,
        "events/s, 1024 people": many,
        "events/s, whole history again": whole,
    }


def _history(items: list[int]) -> Any:
    from recengine.contracts.batch import HistoryBatch

    return HistoryBatch(torch.tensor([-1]), torch.tensor(items), torch.tensor([0, len(items)]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="10,000 items, few calls")
    asked = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    sizes = (10_000,) if asked.quick else (10_000, 1_000_000)
    answers = [
        answering(model, items, 30 if asked.quick else (500 if items < 100_000 else 120))
        for items in sizes
        for model in ANSWERING
    ]
    streams = [streaming(model, 100 if asked.quick else 2000) for model in STREAMING]
    figures = {}
    for items in sizes:
        size, rows = ("10k" if items == 10_000 else "1m"), [row for row in answers if row["items"] == items]
        figures[f"sequential.latency-median-{size}"] = max(row["median ms"] for row in rows)
        figures[f"sequential.latency-p99-{size}"] = max(row["p99 ms"] for row in rows)
        figures[f"sequential.users-per-second-{size}"] = min(row["users/s at 1024"] for row in rows)
    figures["sequential.events-per-second"] = min(row["events/s, one person"] for row in streams)
    figures["sequential.events-per-second-1024"] = min(row["events/s, 1024 people"] for row in streams)
    figures["sequential.events-times-recompute"] = min(
        row["events/s, one person"] / row["events/s, whole history again"] for row in streams
    )
    if not asked.quick:
        head = record.head("bench_serving.py", threads=torch.get_num_threads(), figures=figures)
        text = [
            f"{torch.get_num_threads()} thread(s), float32, width 64, two blocks, histories of <= 50 events, "
            "ten items, seen ones left out; ids to ids (the whole call of `run.recommend`).",
            "",
            *record.table(answers),
            "",
            "Events one at a time (`Sessions`), 10,000 items, windows of 26 to 50 events:",
            "",
            *record.table(streams),
            "",
            "With a million items the item table (256 MB) is read for a single user: that is the latency, "
            "and what 1,024 users at a time share. An event is appended by a few dozen small operations, and "
            "every 25th event starts the window again, which reads 26 events at once; reading a window of at "
            "most 50 events again costs half as much more, and that grows with `max_length`.",
        ]
        given = {**head, "answers": answers, "streams": streams}
        record.write("sequential_serving", given, "Recommending to new people", text)
    record.tell(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
