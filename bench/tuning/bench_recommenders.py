"""Tuners on recommenders: the same number of trials each, and whether the gain is real.

    python bench/tuning/bench_recommenders.py run [--data D] [--models A,B] [--tuners A,B] --out FILE
    python bench/tuning/bench_recommenders.py report --out FILE...
    python bench/tuning/bench_recommenders.py all      (both)

A trial is one fit of few epochs, judged by NDCG@10 on the validation items; the test items are asked once, at
the end: what each tuner recommends against the default settings, under fresh seeds, by the crossed test over
users and seeds. ``bonsai`` spends its last trials on confirming its recommendation, and then decides between
it and the default on targets that no trial was judged by: fitted to the training events alone, under fresh
seeds, both are judged by the last of these (recengine.tuning.decide).

Amazon Electronics came divided into training and test, without times: validation is drawn from the training
part, the test is the one that came, and the earlier events of the decision are divided at random. A model of
sequences (SASRec) has no order to learn from there, and is not asked.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import recengine
from recengine.cli.search_space import fits_directly, search_space
from recengine.contracts.tuner import Observation
from recengine.data import Interactions
from recengine.evaluation.statistics import crossed_test
from recengine.hooks import host
from recengine.training.record import environment
from recengine.tuning import Space, confirmed, decide, unconfirmed

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
METRIC = "ndcg@10"
CONFIRMATIONS = 2
Task = tuple[str, str]  # data, model
# epochs are not tuned: they are the cost of a trial; a closed form has none
EPOCHS = {
    ("ml-100k", "ease"): 1,
    ("ml-100k", "mf"): 8,
    ("ml-100k", "sasrec"): 3,
    ("electronic", "ease"): 1,
    ("electronic", "mf"): 3,
}
# the default point, where it is not the plugins': as in the study of losses
START: dict[Task, dict[str, dict[str, Any]]] = {
    ("ml-100k", "mf"): {
        "loss": {"shared": True},
        "training": {"learning_rate": 0.01, "batch_size": 1024},
    },
    ("electronic", "mf"): {
        "loss": {"shared": True, "negatives": 64},
        "training": {"learning_rate": 0.01, "batch_size": 1024},
    },
    ("electronic", "ease"): {"model": {"precision": "float32"}},
}
# divided how: for the trials, and the earlier events for the decision; {}: by time
DIVIDED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ml-100k": ({}, {}),
    "electronic": ({"strategy": "given_validated"}, {"strategy": "ratio_random"}),
}
# what the data (1,682 and 8,360 items) and short runs can use, and settings that declare no range
RANGES: dict[Task, list[str]] = {
    ("ml-100k", "mf"): [
        "model.factors=16:128",
        "model.init_std=0.01:0.5:log",
        "loss.negatives=32:512",
        "loss.sampler=uniform,popularity,mixed",
        "loss.power=0.25:1",
        "training.batch_size=256:4096:log",
        "training.schedule=constant,cosine",
        "training.warmup=0:0.3",
        "training.clip_norm=0:5",
    ],
    ("electronic", "mf"): [
        "model.factors=16:64",
        "model.init_std=0.01:0.5:log",
        "loss.negatives=16:256",
        "loss.sampler=uniform,popularity,mixed",
        "loss.power=0.25:1",
        "training.batch_size=512:8192:log",
        "training.schedule=constant,cosine",
        "training.warmup=0:0.3",
        "training.clip_norm=0:5",
    ],
    ("ml-100k", "sasrec"): ["model.n_blocks=1:3"],
}


def events_of(name: str) -> Interactions:
    shared = ROOT.parent / "shared" / "data"
    if name == "electronic":
        return recengine.data.read(shared / "irbench" / "iid" / "amazon2014-electronic")
    with gzip.open(shared / "restricted" / "ml-100k" / "u.data.gz") as file:
        rows = np.loadtxt(file, dtype=np.int64)
    return Interactions.from_arrays(rows[:, 0], rows[:, 1], rows[:, 3])


def start(task: Task) -> dict[str, Any]:
    own = START.get(task, {})
    training = {"epochs": EPOCHS[task], "evaluate_every": EPOCHS[task], **own.get("training", {})}
    return {**{section: dict(values) for section, values in own.items()}, "training": training}


def space_of(task: Task) -> Space:
    model = task[1]
    fixed = [] if fits_directly(model) else ["training.epochs"]
    return search_space(model, start(task), None, fixed, RANGES.get(task, []), [], [])


def fitted(task: Task, events: Interactions, point: dict[str, Any], seed: int, earlier: bool = False) -> Any:
    settings = start(task)
    settings["split"] = dict(DIVIDED[task[0]][earlier])
    for name, value in point.items():
        section, _, key = name.partition(".")
        settings.setdefault(section, {})[key] = value
    return recengine.fit(task[1], events, settings=settings, seed=seed)


def worth(task: Task, events: Interactions, point: dict[str, Any], seed: int) -> float:
    return float(fitted(task, events, point, seed).evaluate("validation")[METRIC])


def cell(task: Task, tuner: str, seed: int, trials: int, repeats: int) -> dict[str, Any]:
    data, model = task
    events, space = events_of(data), space_of(task)
    entry = host().registries["tuner"].get(tuner)
    policy = entry.load()(entry.load_config()(), space, seed)
    before = time.perf_counter()

    def observed(point: dict[str, Any]) -> Observation:
        return Observation(point, (worth(task, events, point, seed),), seed=seed)

    history = [observed(space.default)]
    while len(history) < trials:
        found = None
        if tuner == "bonsai" and trials - len(history) <= CONFIRMATIONS:
            found = unconfirmed(space, policy.conclude(history), history)
        if found is None:
            found = {k: v for k, v in policy.propose(history, 1)[0].items() if k != "__facts__"}
        history.append(observed(space.settle(found)))
    final = dict(max(history, key=lambda seen: seen.values[0]).parameters)
    if tuner == "bonsai":
        final = confirmed(space, policy.conclude(history), history)
    decision = None
    if tuner == "bonsai" and space.changed(final):
        earlier = fitted(task, events, space.default, seed).split.train
        decision = decide(*(_users(task, earlier, point, repeats, True) for point in (final, space.default)))
        final = final if decision.adopted else space.default
    took = time.perf_counter() - before
    kept = {"tuned": final, "default": space.default}
    tables = {name: _users(task, events, point, repeats) for name, point in kept.items()}
    test = crossed_test(tables["tuned"] - tables["default"]) if repeats > 1 else None
    return {
        "data": data,
        "model": model,
        "tuner": tuner,
        "seed": seed,
        "trials": trials,
        "epochs": 0 if fits_directly(model) else EPOCHS[task],
        "values": [seen.values[0] for seen in history],
        "changed": [len(space.changed(seen.parameters)) for seen in history],
        "parameters": len(space.names),
        "final": final,
        "final_changed": list(space.changed(final)),
        "seconds": took,
        "decision": None if decision is None else [decision.test.low, decision.test.high, decision.adopted],
        "tuned_test": float(tables["tuned"].mean()),
        "default_test": float(tables["default"].mean()),
        "repeats": repeats,
        "low": None if test is None else float(test.low),
        "high": None if test is None else float(test.high),
        "p": None if test is None else float(test.p_value),
    }


def _users(
    task: Task, events: Interactions, point: dict[str, Any], repeats: int, earlier: bool = False
) -> Any:
    """Test values [users, seeds] under seeds that no trial used; a closed form is the same under each."""
    fits = 1 if fits_directly(task[1]) else repeats
    columns = [
        np.asarray(fitted(task, events, point, 90_000 + r, earlier).evaluate().values(METRIC), np.float64)
        for r in range(fits)
    ]
    return np.stack([columns[r % fits] for r in range(repeats)], axis=1)


def run(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    done = {(r["data"], r["model"], r["tuner"], r["seed"], r["trials"]) for r in lines(asked.out)}
    for seed in map(int, asked.seeds.split(",")):
        for model in asked.models.split(","):
            for tuner in asked.tuners.split(","):
                if (asked.data, model, tuner, seed, asked.trials) in done:
                    continue
                found = cell((asked.data, model), tuner, seed, asked.trials, asked.repeats)
                with asked.out[0].open("a") as file:
                    file.write(json.dumps(found) + "\n")
                print(
                    f"{asked.data} {model} {tuner} {seed}: {found['seconds']:.0f} s, "
                    f"validation {max(found['values']):.4f} (default {found['values'][0]:.4f}), "
                    f"{len(found['final_changed'])} changed, "
                    f"test {found['tuned_test']:.4f} (default {found['default_test']:.4f})",
                    flush=True,
                )


def lines(files: list[Path]) -> list[dict[str, Any]]:
    rows = [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]
    return [{"data": "ml-100k", **row} for row in rows]


def _kind(row: dict[str, Any]) -> tuple[str, str, int, int, int, str]:
    """What tunings of one line of the table have in common."""
    return row["data"], row["model"], row["parameters"], row["trials"], row["epochs"], row["tuner"]


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The claims' figures. A problem counts once, by its median over seeds, however many tunings it had; what
    another version searched (``searched_by``) says nothing of this one, and does not count."""
    own = [r for r in rows if r["tuner"] == "bonsai" and "searched_by" not in r]
    quality: dict[tuple[Any, ...], list[float]] = {}
    fewer: dict[tuple[Any, ...], list[float]] = {}
    for b in own:
        kind = _kind(b)[:-1]
        rivals = [
            r
            for r in rows
            if (*_kind(r)[:-1], r["seed"]) == (*kind, b["seed"]) and r["tuner"] in ("bo", "tpe", "random")
        ]
        if rivals:
            best = max(r["tuned_test"] for r in rivals)
            changes = statistics.mean(len(r["final_changed"]) for r in rivals)
            quality.setdefault(kind, []).append(b["tuned_test"] - best)
            fewer.setdefault(kind, []).append(len(b["final_changed"]) / changes)
    real = [b["low"] > 0 or not b["final_changed"] for b in own]
    return {
        "tuning.recommender-quality": round(statistics.median(map(statistics.median, quality.values())), 4),
        "tuning.recommender-changes": round(statistics.mean(map(statistics.median, fewer.values())), 3),
        "tuning.recommender-real": round(sum(real) / len(real), 3),
    }


def report(files: list[Path], keep: bool) -> None:
    """Write the table and print the claims."""
    rows = sorted(lines(files), key=lambda r: (r["data"] != "ml-100k", r["model"], r["tuner"], r["seed"]))
    text = [
        "# Tuners on recommenders",
        "",
        "ml-100k and Amazon Electronics, one fit a trial. Medians over the tuner's seeds. 'Real': tunings",
        "whose gain on the test items under fresh seeds is significant at 5 % (crossed t test over users and",
        "seeds), and those significantly worse. `bonsai` decides between what it recommends and the default",
        "on targets that no trial was judged by (earlier events, fresh seeds, as many fits of each as there",
        "are repeats); the other tuners recommend the best point that they measured. Electronics has no",
        "times, so SASRec is not asked there; its EASE is inverted in float32, its MF + SL runs short",
        "courses.",
        "",
        "| data | model | trials, epochs | tuner | tunings | validation, best | validation, default "
        "| changed | test, tuned | test, default | real | worse |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind in dict.fromkeys(map(_kind, rows)):
        own = [r for r in rows if _kind(r) == kind]
        data, model, knobs, trials, epochs, tuner = kind

        def middle(*values: float) -> str:
            return f"{statistics.median(values):.4f}"

        tested = [r for r in own if r["low"] is not None]
        text.append(
            f"| {data} | {model} ({knobs} knobs) | {trials}, {epochs or '–'} | {tuner} | {len(own)} "
            f"| {middle(*(max(r['values']) for r in own))} | {middle(*(r['values'][0] for r in own))} "
            f"| {statistics.median(len(r['final_changed']) for r in own):g} "
            f"| {middle(*(r['tuned_test'] for r in own))} | {middle(*(r['default_test'] for r in own))} "
            f"| {sum(r['low'] > 0 for r in tested)} of {len(tested)} | {sum(r['high'] < 0 for r in tested)} |"
        )
    bonsai = [r for r in rows if r["tuner"] == "bonsai"]
    text += ["", "What `bonsai` decided, 95 % interval of the gain on earlier events:", ""]
    for r in bonsai:
        low, high, adopted = r.get("decision") or (None, None, False)
        said = "nothing to decide" if low is None else f"{low:+.4f} to {high:+.4f}"
        search = f" (its search is that of {r['searched_by']})" if "searched_by" in r else ""
        text.append(
            f"* {r['data']}, {r['model']}, seed {r['seed']}: {said}, "
            f"{'changed' if adopted else 'default'}{search}"
        )
    if keep:
        RESULTS.joinpath("tuning_recommenders.md").write_text("\n".join(text) + "\n")
    record = {"script": "bench/tuning/bench_recommenders.py", "environment": environment(), "cells": rows}
    if keep:
        RESULTS.joinpath("tuning_recommenders.json").write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(text))
    for name, figure in figures(rows).items():
        print(json.dumps({"claim": name, "figure": figure}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("run", "report", "all"))
    parser.add_argument("--data", default="ml-100k", choices=tuple(DIVIDED))
    parser.add_argument("--models", default="ease,mf,sasrec")
    parser.add_argument("--tuners", default="bonsai,bo,tpe,random")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, nargs="+", help="JSON lines, outside the checkout")
    parser.add_argument("--quick", action="store_true", help="four trials, EASE alone; nothing kept")
    asked = parser.parse_args()
    asked.out = asked.out or [Path(tempfile.gettempdir()) / f"tuning_rec{'-quick' * asked.quick}.jsonl"]
    if asked.quick:
        asked.models, asked.tuners, asked.trials, asked.repeats = "ease", "bonsai,random", 4, 2
        asked.out[0].unlink(missing_ok=True)  # another day's cells would be taken for this code's
    if asked.verb != "report":
        run(asked)
    if asked.verb != "run":
        report(asked.out, not asked.quick)


if __name__ == "__main__":
    main()
