"""Quality of the click models on Frappe and ml-1m: validation picks the epoch, the test part is asked once.

    python bench/ranking/bench_quality.py run DATA MODEL... [--seeds 5] [--store FILE]
    python bench/ranking/bench_quality.py claim ID [--seeds 5] [--store FILE]
    python bench/ranking/bench_quality.py report [--store FILE]
    python bench/ranking/bench_quality.py --quick

``run`` measures the cells (data, model, seed) that the store lacks and may be stopped at any time; ``claim``
those that a claim needs, and reports; ``report`` makes bench/results/ranking_quality.* of the store.
MODEL is a name of MODELS: models with about equal numbers of weights beside the table, TokenMixer-Large with
a part taken away (tml-...), and sizes for scaling (tml@10k ...). A seed decides the initial weights and the
order of the rows; Frappe's negatives and the split are the same for all (seed 0 of the data set).
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
TRAINING = {"epochs": 30, "batch_size": 4096, "learning_rate": 1e-3, "patience": 2, "checkpoint_every": 0}
TML = {"tokens": 0, "hidden_dim": 64, "n_blocks": 2, "expansion": 1, "embedding_dim": 16}
SPARSE = {"experts": 8, "active": 4}

# name: (registered model, its settings); about 0.35 to 0.45 million weights beside the table on Frappe
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "lr": ("lr", {}),
    "fm": ("fm", {"embedding_dim": 16}),
    "deepfm": ("deepfm", {"hidden": [400, 400, 400], "dropout": 0.3}),
    "dcnv2": ("dcnv2", {"hidden": [400, 400, 300], "dropout": 0.3, "cross_layers": 3}),
    "autoint": ("autoint", {"layers": 4, "attention_dim": 128, "n_heads": 4}),
    "dlrm": ("dlrm", {"hidden": [512, 512, 256], "dropout": 0.3}),
    "wukong": ("wukong", {"layers": 4, "compressed": 16, "interacted": 16, "rank": 16, "hidden": [64]}),
    "rankmixer": ("rankmixer", {"tokens": 8, "hidden_dim": 64, "n_blocks": 3, "expansion": 2}),
    "tml": ("tokenmixer_large", TML),
    "tml-moe-1:2": ("tokenmixer_large", {**TML, **SPARSE}),
    "tml-moe-1:4": ("tokenmixer_large", {**TML, "experts": 16, "active": 4}),
    "tml-no-mixing": ("tokenmixer_large", {**TML, "mixing": False}),
    "tml-no-residual": ("tokenmixer_large", {**TML, "residual": "none"}),
    "tml-no-depth-aids": ("tokenmixer_large", {**TML, "n_blocks": 4, "skip": 0, "auxiliary": 0.0}),
    "tml-depth-aids": ("tokenmixer_large", {**TML, "n_blocks": 4}),
    "tml-shared-swiglu": ("tokenmixer_large", {**TML, "ffn": "shared_swiglu"}),
    "tml-ffn": ("tokenmixer_large", {**TML, "ffn": "ffn"}),
    "tml-no-small-init": ("tokenmixer_large", {**TML, "down_gain": 1.0}),
    "tml-no-global-token": ("tokenmixer_large", {**TML, "global_token": False}),
    "tml-moe-no-gate-scale": ("tokenmixer_large", {**TML, **SPARSE, "gate_scale": 1.0}),
    "tml-moe-no-shared-expert": ("tokenmixer_large", {**TML, **SPARSE, "shared_expert": False}),
    "tml@10k": ("tokenmixer_large", {"preset": "10k"}),
    "tml@100k": ("tokenmixer_large", {"preset": "100k"}),
    "tml@1m": ("tokenmixer_large", {"preset": "1m", "tokens": 8}),
}
# claim: (data, model, against): the figure is the mean AUC, less the mean AUC of the other where there is one
CLAIMS = {
    "ranking.frappe-deepfm-auc": ("frappe", "deepfm", None),
    "ranking.frappe-dcnv2-auc": ("frappe", "dcnv2", None),
    "ranking.frappe-tml-over-dcnv2": ("frappe", "tml", "dcnv2"),
    "ranking.frappe-tml-over-rankmixer": ("frappe", "tml", "rankmixer"),
    "ranking.ml-1m-tml-over-dcnv2": ("ml-1m", "tml", "dcnv2"),
    "ranking.ml-1m-tml-over-rankmixer": ("ml-1m", "tml", "rankmixer"),
    "ranking.ablation-mixing": ("ml-1m", "tml", "tml-no-mixing"),
    "ranking.ablation-residual": ("ml-1m", "tml", "tml-no-residual"),
    "ranking.ablation-depth-aids": ("ml-1m", "tml-depth-aids", "tml-no-depth-aids"),
    "ranking.ablation-per-token-swiglu": ("ml-1m", "tml", "tml-shared-swiglu"),
    "ranking.ablation-swiglu-over-ffn": ("ml-1m", "tml", "tml-ffn"),
    "ranking.ablation-gate-scale": ("ml-1m", "tml-moe-1:2", "tml-moe-no-gate-scale"),
    "ranking.ablation-small-init": ("ml-1m", "tml", "tml-no-small-init"),
    "ranking.ablation-shared-expert": ("ml-1m", "tml-moe-1:2", "tml-moe-no-shared-expert"),
    "ranking.ablation-global-token": ("ml-1m", "tml", "tml-no-global-token"),
    "ranking.sparse-half-loss": ("ml-1m", "tml", "tml-moe-1:2"),
    "ranking.sparse-quarter-loss": ("ml-1m", "tml", "tml-moe-1:4"),
    "ranking.scaling-gain": ("ml-1m", "tml@1m", "tml@10k"),
}
SEEDS_ASKED = 5


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
    """The cells, seed by seed."""
    for seed in range(seeds):
        for model in models:
            cell(store, data, model, seed, epochs)


def cells(store: Path) -> list[dict[str, Any]]:
    """What is measured."""
    return [json.loads(line) for line in store.read_text().splitlines()] if store.is_file() else []


def cell(store: Path, data: str, model: str, seed: int, epochs: int | None = None, rows: int = 0) -> None:
    """Fit and ask once, unless the store has it."""
    if any((one["data"], one["model"], one["seed"]) == (data, model, seed) for one in cells(store)):
        return
    from recengine.training import fit

    name, settings = MODELS[model]
    training = dict(TRAINING) | ({"epochs": epochs} if epochs else {})
    began = time.perf_counter()
    run: Any = fit(name, split_of(data, rows), settings={"model": settings, "training": training}, seed=seed)
    seconds = time.perf_counter() - began
    found = run.evaluate()
    weights = {n: p.numel() for n, p in run.model.named_parameters()}
    table = sum(size for n, size in weights.items() if n.endswith(".table"))
    told = {
        "data": data,
        "model": model,
        "seed": seed,
        "weights": sum(weights.values()) - table,
        "table": table,
        "epochs": len(run.history),
        "best": max(range(len(run.history)), key=lambda at: run.history[at]["auc"]) + 1,
        "seconds": round(seconds, 1),
        "settings": {"model": settings, "training": training},
        "metrics": {one.metric: [one.mean, one.low, one.high] for one in found.summary()},
    }
    store.parent.mkdir(parents=True, exist_ok=True)
    with store.open("a") as file:
        file.write(json.dumps(told) + "\n")
    print(f"{data} {model} seed {seed}: AUC {found['auc']:.4f}, {seconds:.0f} s", flush=True)


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


def report(store: Path, last: str = "") -> None:
    """bench/results/ranking_quality.* and the figures of the claims, that of ``last`` at the end."""
    found = cells(store)
    by: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for one in found:
        by.setdefault((one["data"], one["model"]), {})[one["seed"]] = one
    lines = [
        "# Quality of the click models",
        "",
        __doc__.splitlines()[0],
        "",
        f"{processor()}, {datetime.now(UTC):%Y-%m-%d}.",
        "",
        "Mean over seeds; the interval is over the rows of the test part for one seed (DeLong), over seeds",
        "(Student's t) for more. Weights: beside the tables. What is missing has not been run.",
        "",
        "| data | model | seeds | weights | AUC | interval | log loss | GAUC | ECE |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (data, model), seeds in sorted(by.items()):
        one = next(iter(seeds.values()))
        values = [cell["metrics"]["auc"][0] for cell in seeds.values()]
        low, high = interval(values) if len(values) > 1 else one["metrics"]["auc"][1:]
        ends = f"{low:.4f} to {high:.4f}"
        mean = {m: np.mean([c["metrics"][m][0] for c in seeds.values()]) for m in ("log_loss", "gauc", "ece")}
        lines.append(
            f"| {data} | {model} | {len(seeds)} | {one['weights']:,} | {np.mean(values):.4f} | {ends} "
            f"| {mean['log_loss']:.4f} | {mean['gauc']:.4f} | {mean['ece']:.4f} |"
        )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ranking_quality.md").write_text("\n".join(lines) + "\n")
    about = {"processor": processor(), "python": sys.version.split()[0], "training": TRAINING}
    (RESULTS / "ranking_quality.json").write_text(json.dumps({**about, "cells": found}, indent=1) + "\n")
    for claim in sorted(CLAIMS, key=lambda name: name == last):
        data, model, other = CLAIMS[claim]
        mine, theirs = by.get((data, model), {}), by.get((data, other or model), {})
        seeds = sorted(set(mine) & set(theirs))
        if len(seeds) < SEEDS_ASKED:
            continue  # a claim speaks of five seeds
        auc = np.mean([mine[seed]["metrics"]["auc"][0] for seed in seeds])
        less = np.mean([theirs[seed]["metrics"]["auc"][0] for seed in seeds]) if other else 0.0
        print(json.dumps({"claim": claim, "figure": round(float(auc - less), 5), "seeds": len(seeds)}))


def interval(values: list[float]) -> tuple[float, float]:
    """Student's t, 95 %."""
    from recengine.evaluation import t_interval

    return t_interval(np.asarray(values))


def quick(store: Path) -> None:
    """One epoch of two models on few rows: whether everything runs."""
    store.unlink(missing_ok=True)
    for model in ("deepfm", "tml"):
        cell(store, "frappe", model, 0, epochs=1, rows=20_000)
    auc = cells(store)[0]["metrics"]["auc"][0]
    print(json.dumps({"claim": "ranking.frappe-deepfm-auc", "figure": round(auc, 4), "quick": True}))


if __name__ == "__main__":
    main()
