"""Quality of the click models on Frappe and ml-1m: validation picks the epoch, the test part is asked once.

    python bench/ranking/bench_quality.py run DATA MODEL... [--seeds 5] [--store FILE]
    python bench/ranking/bench_quality.py claim ID [--seeds 5] [--store FILE]
    python bench/ranking/bench_quality.py report [--store FILE]
    python bench/ranking/bench_quality.py --quick

``run`` measures the cells (data, model, seed) that the store lacks and may be stopped at any time; ``claim``
those that a claim needs, and reports; ``report`` makes bench/results/ranking_quality.* of the store.
MODEL is a name of MODELS: models with about equal numbers of weights beside the table, and (small-...)
TokenMixer-Large with a part taken away or in another form. A seed decides the initial weights and the order
of the rows; Frappe's negatives and the split are the same for all (seed 0 of the data set).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
STORE = (
    Path(os.environ.get("RECENGINE_CACHE", Path.home() / ".cache" / "recengine")) / "ranking_quality.jsonl"
)
os.environ.setdefault("RECENGINE_DATA", str(HERE.parents[2] / "shared" / "data"))
DATA = {"frappe": "frappe", "ml-1m": "ml-1m-clicks"}
TRAINING = {
    "epochs": 100,
    "batch_size": 4096,
    "learning_rate": 1e-3,
    "plateau_factor": 0.1,
    "patience": 2,
    "checkpoint_every": 0,
}
TRIALS = (0.05, 0.01, 0.0)  # model.table_l2: what every model is tuned by, seed 0, validation only
BASE = {"embedding_dim": 10, "init_std": 1e-4}
TOWER = {**BASE, "batch_norm": True, "dropout": 0.2}
TML = {**BASE, "tokens": 0, "hidden_dim": 64, "n_blocks": 2, "expansion": 1}
SMALL = {**BASE, "tokens": 0, "hidden_dim": 32, "n_blocks": 2, "expansion": 1}
SPARSE = {"experts": 8, "active": 4}
# what is taken away is taken from a smaller model that meets every row once
QUICKER = {"epochs": 1, "batch_size": 1024}

# name: (registered model, its settings); about 0.3 to 0.42 million weights beside the tables on Frappe
# (lr and fm have none, autoint, slow for its weights, has fewer)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "lr": ("lr", {}),
    "fm": ("fm", {**BASE, "init_std": 0.1}),  # products of two vectors do not get away from 1e-4 in time
    "deepfm": ("deepfm", {**TOWER, "hidden": [400, 400, 400]}),
    "dcnv2": ("dcnv2", {**TOWER, "hidden": [400, 400, 400], "dropout": 0.4, "cross_layers": 4}),
    "autoint": ("autoint", {**BASE, "layers": 3, "attention_dim": 64, "n_heads": 2}),
    "dlrm": ("dlrm", {**TOWER, "hidden": [512, 512, 256]}),
    "wukong": (
        "wukong",
        {**TOWER, "layers": 2, "compressed": 16, "interacted": 16, "rank": 16, "hidden": [128]}
        | {"top": [400, 400]},
    ),
    "rankmixer": ("rankmixer", {**BASE, "tokens": 5, "hidden_dim": 80, "n_blocks": 3, "expansion": 2}),
    "tml": ("tokenmixer_large", TML),
    "small": ("tokenmixer_large", SMALL),
    "small-dcnv2": ("dcnv2", {**BASE, "dropout": 0.0, "hidden": [250, 250], "cross_layers": 2}),
    "small-rankmixer": ("rankmixer", {**BASE, "tokens": 4, "hidden_dim": 56, "n_blocks": 2, "expansion": 2}),
    "small-moe-1:2": ("tokenmixer_large", {**SMALL, **SPARSE}),
    "small-moe-1:4": ("tokenmixer_large", {**SMALL, "experts": 16, "active": 4}),
    "small-no-mixing": ("tokenmixer_large", {**SMALL, "mixing": False}),
    "small-no-residual": ("tokenmixer_large", {**SMALL, "residual": "none"}),
    "small-no-depth-aids": ("tokenmixer_large", {**SMALL, "n_blocks": 4, "skip": 0, "auxiliary": 0.0}),
    "small-depth-aids": ("tokenmixer_large", {**SMALL, "n_blocks": 4}),
    "small-shared-swiglu": ("tokenmixer_large", {**SMALL, "ffn": "shared_swiglu"}),
    "small-ffn": ("tokenmixer_large", {**SMALL, "ffn": "ffn"}),
    "small-no-small-init": ("tokenmixer_large", {**SMALL, "down_gain": 1.0}),
    "small-no-global-token": ("tokenmixer_large", {**SMALL, "global_token": False}),
    "small-init-0.1": ("tokenmixer_large", {**SMALL, "down_gain": 0.1}),
    "small-norm-before-mix": ("tokenmixer_large", {**SMALL, "norm": "before_mix"}),
    "small-post-norm": ("tokenmixer_large", {**SMALL, "norm": "post"}),
    "small-reverted-residual": ("tokenmixer_large", {**SMALL, "residual": "reverted"}),
    "small-moe-shared-router": ("tokenmixer_large", {**SMALL, **SPARSE, "router": "shared"}),
    "small-moe-shared-extra": ("tokenmixer_large", {**SMALL, **SPARSE, "shared_extra": True}),
    "small-moe-no-gate-scale": ("tokenmixer_large", {**SMALL, **SPARSE, "gate_scale": 1.0}),
    "small-moe-no-shared-expert": ("tokenmixer_large", {**SMALL, **SPARSE, "shared_expert": False}),
}
# claim: (data, model, against): the figure is the mean AUC, less the mean AUC of the other where there is one
CLAIMS = {
    "ranking.frappe-deepfm-auc": ("frappe", "deepfm", None),
    "ranking.frappe-dcnv2-auc": ("frappe", "dcnv2", None),
    "ranking.frappe-tml-over-dcnv2": ("frappe", "tml", "dcnv2"),
    "ranking.frappe-tml-over-rankmixer": ("frappe", "tml", "rankmixer"),
    "ranking.ml-1m-tml-over-dcnv2": ("ml-1m", "small", "small-dcnv2"),
    "ranking.ml-1m-tml-over-rankmixer": ("ml-1m", "small", "small-rankmixer"),
    "ranking.ablation-mixing": ("ml-1m", "small", "small-no-mixing"),
    "ranking.ablation-residual": ("ml-1m", "small", "small-no-residual"),
    "ranking.ablation-depth-aids": ("ml-1m", "small-depth-aids", "small-no-depth-aids"),
    "ranking.ablation-per-token-swiglu": ("ml-1m", "small", "small-shared-swiglu"),
    "ranking.ablation-swiglu-over-ffn": ("ml-1m", "small", "small-ffn"),
    "ranking.ablation-gate-scale": ("ml-1m", "small-moe-1:2", "small-moe-no-gate-scale"),
    "ranking.ablation-small-init": ("ml-1m", "small", "small-no-small-init"),
    "ranking.ablation-shared-expert": ("ml-1m", "small-moe-1:2", "small-moe-no-shared-expert"),
    "ranking.ablation-global-token": ("ml-1m", "small", "small-no-global-token"),
    "ranking.sparse-half-loss": ("ml-1m", "small", "small-moe-1:2"),
    "ranking.sparse-quarter-loss": ("ml-1m", "small", "small-moe-1:4"),
}
SEEDS_ASKED = 5  # fewer are told with the figure
EARLIER = "Intel(R) Xeon(R) Processor"
TUNED = ("lr", "fm", "deepfm", "dcnv2", "autoint", "dlrm", "wukong", "rankmixer", "tml")


def main() -> None:
    """Read the words of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("run", "claim", "report"), default="report")
    parser.add_argument("names", nargs="*", help="DATA MODEL..., or the id of a claim")
    parser.add_argument("--seeds", type=int, default=SEEDS_ASKED)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        quick(given.store.with_suffix(".quick.jsonl"))
    elif given.what == "run":
        data, *models = given.names
        measure(given.store, data, models, given.seeds, given.epochs)
    elif given.what == "claim":
        (claim,) = given.names
        data, model, other = CLAIMS[claim]
        measure(given.store, data, [model, *([other] if other else [])], given.seeds, given.epochs)
        report(given.store, claim)
    else:
        report(given.store)


def measure(store: Path, data: str, models: list[str], seeds: int, epochs: int | None) -> None:
    """The cells, seed by seed: with seed 0 every trial of a tuned model, then the trial that was best on the
    validation part."""
    for seed in range(seeds):
        for model in models:
            if model not in TUNED:
                cell(store, data, model, seed, {}, epochs)
            elif seed == 0:
                for pull in TRIALS:
                    cell(store, data, model, 0, {"table_l2": pull}, epochs)
            else:
                cell(store, data, model, seed, chosen(cells(store), data, model), epochs)


def cells(store: Path) -> list[dict[str, Any]]:
    """What is measured."""
    return [json.loads(line) for line in store.read_text().splitlines()] if store.is_file() else []


def chosen(found: list[dict[str, Any]], data: str, model: str) -> dict[str, float]:
    """The trial of seed 0 with the best validation AUC."""
    first = [one for one in found if (one["data"], one["model"], one["seed"]) == (data, model, 0)]
    best: dict[str, float] = max(first, key=lambda one: one["validation"])["trial"]
    return best


def cell(
    store: Path,
    data: str,
    model: str,
    seed: int,
    trial: dict[str, float],
    epochs: int | None = None,
    rows: int = 0,
) -> None:
    """Fit and ask once, unless the store has it."""
    key = (data, model, seed, trial)
    if any((one["data"], one["model"], one["seed"], one["trial"]) == key for one in cells(store)):
        return
    from recengine.training import fit

    name, settings = MODELS[model]
    training = (
        dict(TRAINING) | (QUICKER if model not in TUNED else {}) | ({"epochs": epochs} if epochs else {})
    )
    began = time.perf_counter()
    sections = {"model": {**settings, **trial}, "training": training}
    run: Any = fit(name, split_of(data, rows), settings=sections, seed=seed)
    seconds = time.perf_counter() - began
    found = run.evaluate()
    weights = {n: p.numel() for n, p in run.model.named_parameters()}
    table = sum(size for n, size in weights.items() if n.endswith(".table"))
    told = {
        "data": data,
        "model": model,
        "seed": seed,
        "trial": trial,
        "weights": sum(weights.values()) - table,
        "table": table,
        "epochs": len(run.history),
        "best": max(range(len(run.history)), key=lambda at: run.history[at]["auc"]) + 1,
        "validation": max(epoch["auc"] for epoch in run.history),
        "seconds": round(seconds, 1),
        "processor": processor(),
        "settings": {"model": settings, "training": training},
        "metrics": {one.metric: [one.mean, one.low, one.high] for one in found.summary()},
    }
    load = expert_load(run)
    if load:
        told["expert_load"] = load
    store.parent.mkdir(parents=True, exist_ok=True)
    with store.open("a") as file:
        file.write(json.dumps(told) + "\n")
    print(f"{data} {model} {trial} seed {seed}: AUC {found['auc']:.4f}, {seconds:.0f} s", flush=True)


def expert_load(run: Any) -> dict[str, list[list[int]]]:
    """Rows of the test part that each routed expert gets, by half block and token; dense models have none."""
    from recengine.contracts.batch import FeatureBatch

    found: dict[str, np.ndarray] = {}
    for arrays in run.split.test.batches() if hasattr(run.model, "expert_load") else ():
        for name, load in run.model.expert_load(FeatureBatch(**arrays.tensors()).features).items():
            found[name] = found.get(name, 0) + load.numpy()
    return {name: load.tolist() for name, load in found.items()}


_SPLITS: dict[tuple[str, int], Any] = {}


def split_of(data: str, rows: int) -> Any:
    """The prepared data, once a process; rows: only so many of them (0: all)."""
    from recengine.data.clicks import ClickLog, prepare
    from recengine.hooks import host

    if (data, rows) not in _SPLITS:
        found = host().registries["dataset"].get(DATA[data]).load()
        source = found() if isinstance(found, type) else found
        log = source.load(Path())
        if rows:
            log = ClickLog((log.frames[0].sample(rows, seed=0),), config=log.config, name=log.name)
        _SPLITS[data, rows] = prepare(log)
    return _SPLITS[data, rows]


def processor() -> str:
    """Its name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def processors(found: list[dict[str, Any]]) -> list[str]:
    """Of the cells; those that do not name theirs were measured on ``EARLIER``."""
    return sorted({one.get("processor", EARLIER) for one in found})


def report(store: Path, last: str = "") -> None:
    """bench/results/ranking_quality.* and the figures of the claims, that of ``last`` at the end."""
    found = cells(store)
    by: Cells = {}
    for one in found:
        if one["trial"] == chosen(found, one["data"], one["model"]):
            by.setdefault((one["data"], one["model"]), {})[one["seed"]] = one
    lines = [
        "# Quality of the click models",
        "",
        __doc__.splitlines()[0],
        "",
        f"{', '.join(processors(found))}; report of {datetime.now(UTC):%Y-%m-%d}.",
        "",
        "Mean over seeds; the interval is over the rows of the test part for one seed (DeLong), over seeds",
        "(Student's t) for more. Weights: beside the tables. Pull: model.table_l2, chosen among "
        + ", ".join(str(one) for one in TRIALS),
        "by the validation AUC of seed 0. small...: every row is learned from once (1,024 rows a step),",
        "without a pull; their settings name bf16-mixed, which one process did not heed before 2026-11-23:",
        "all cells are float32. What is missing has not been run.",
        "",
        "| data | model | pull | seeds | weights | AUC | interval | log loss | GAUC | ECE |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (data, model), seeds in sorted(by.items()):
        one = next(iter(seeds.values()))
        values = [cell["metrics"]["auc"][0] for cell in seeds.values()]
        low, high = interval(values) if len(values) > 1 else one["metrics"]["auc"][1:]
        ends = f"{low:.4f} to {high:.4f}"
        pull = one["trial"].get("table_l2", 0)
        mean = {m: np.mean([c["metrics"][m][0] for c in seeds.values()]) for m in ("log_loss", "gauc", "ece")}
        lines.append(
            f"| {data} | {model} | {pull} | {len(seeds)} | {one['weights']:,} | {np.mean(values):.4f} "
            f"| {ends} | {mean['log_loss']:.4f} | {mean['gauc']:.4f} | {mean['ece']:.4f} |"
        )
    lines += _differences(by)
    lines += _loads(by)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ranking_quality.md").write_text("\n".join(lines) + "\n")
    about = {
        "processor": ", ".join(processors(found)),
        "python": sys.version.split()[0],
        "training": TRAINING,
    }
    (RESULTS / "ranking_quality.json").write_text(json.dumps({**about, "cells": found}, indent=1) + "\n")
    for claim in sorted(CLAIMS, key=lambda name: name == last):
        values = _claimed(by, claim)
        if values:
            told = {"claim": claim, "figure": round(float(np.mean(values)), 5), "seeds": len(values)}
            if CLAIMS[claim][2] and len(values) > 1:
                told["interval"] = [round(end, 5) for end in interval(values)]
            print(json.dumps(told))


Cells = dict[tuple[str, str], dict[int, dict[str, Any]]]  # (data, model): seed: cell


def _claimed(by: Cells, claim: str) -> list[float]:
    """By seed: the AUC, less that of the other model with the same seed where the claim names one."""
    data, model, other = CLAIMS[claim]
    mine, theirs = by.get((data, model), {}), by.get((data, other or model), {})
    return [
        mine[seed]["metrics"]["auc"][0] - (theirs[seed]["metrics"]["auc"][0] if other else 0.0)
        for seed in sorted(set(mine) & set(theirs))
    ]


def _differences(by: Cells) -> list[str]:
    """The table of the claimed differences."""
    lines = [
        "",
        "Differences of AUC, paired by seed, with Student's t interval over seeds; undecided: it holds 0.",
        "",
        "| data | model | less | seeds | difference | interval | |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim, (data, model, other) in CLAIMS.items():
        values = _claimed(by, claim)
        if other is None or len(values) < 2:
            continue
        low, high = interval(values)
        decided = "" if low > 0 or high < 0 else "undecided"
        lines.append(
            f"| {data} | {model} | {other} | {len(values)} | {np.mean(values):+.4f} "
            f"| {low:+.4f} to {high:+.4f} | {decided} |"
        )
    return lines


LOADS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # ends of the histogram's bins, in even shares


def _loads(by: Cells) -> list[str]:
    """How many experts get which part of an even share of a token's rows, of the models that tell."""
    words = ["none", *(f"to {end:g}" for end in LOADS[1:]), f"over {LOADS[-1]:g}"]
    lines = [
        "",
        "Load of the routed experts on the test part, all seeds: how many of them (of all tokens of a half",
        "block) get what part of an even share of the token's rows, 1 being even.",
        "",
        f"| data | model | half block | seeds | experts | {' | '.join(words)} | least | most |",
        "|---" * (len(words) + 7) + "|",
    ]
    rows = []
    for (data, model), seeds in sorted(by.items()):
        told = [one["expert_load"] for one in seeds.values() if "expert_load" in one]
        for name in told[0] if told else ():
            load = np.array([one[name] for one in told], float)  # seeds, tokens, experts
            share = (load / load.mean(2, keepdims=True)).ravel()
            counts = np.bincount(np.searchsorted(LOADS, share, side="left"), minlength=len(words))
            shown = " | ".join(str(count) for count in counts)
            rows.append(
                f"| {data} | {model} | {name} | {len(told)} | {share.size} | {shown} "
                f"| {share.min():.2f} | {share.max():.2f} |"
            )
    return lines + rows if rows else []


def interval(values: list[float]) -> tuple[float, float]:
    """Student's t, 95 %."""
    from recengine.evaluation import t_interval

    return t_interval(np.asarray(values))


def quick(store: Path) -> None:
    """One epoch of two models on few rows: whether everything runs."""
    store.unlink(missing_ok=True)
    for model in ("deepfm", "tml", "small-moe-1:2"):
        cell(store, "frappe", model, 0, {"table_l2": TRIALS[0]}, epochs=1, rows=20_000)
    assert "expert_load" in cells(store)[-1]
    auc = cells(store)[0]["metrics"]["auc"][0]
    print(json.dumps({"claim": "ranking.frappe-deepfm-auc", "figure": round(auc, 4), "quick": True}))


if __name__ == "__main__":
    main()
