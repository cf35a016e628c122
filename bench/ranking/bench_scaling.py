"""How click models improve with size on ml-1m: every row is learned from once, the test part is asked once.

    python bench/ranking/bench_scaling.py run [MODEL...] [--seeds N] [--sizes 0 1] [--store FILE]
    python bench/ranking/bench_scaling.py report [--store FILE]
    python bench/ranking/bench_scaling.py --quick

A cell is (model, size, seed): one pass over the training rows, Adam 1e-3, 1,024 rows a step, float32, the
same for all (cells of before 2026-11-23 asked for bf16-mixed, which one process did not heed then: they are
float32, too). Seeds of a size: those of SEEDS, unless --seeds says how many. Weights: beside the tables,
which are the same for all. FLOPs: of one row forward. The law is log loss = floor + a (weights / 10^5)^-b,
least squares over the cells, b in [0, 2], with b's 95 % interval (Student's, cells less three degrees of
freedom).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import bench_quality as quality
import numpy as np

STORE = quality.STORE.with_name("ranking_scaling.jsonl")
TRAINING = {
    "epochs": 1,
    "batch_size": 1024,
    "learning_rate": 1e-3,
    "checkpoint_every": 0,
}
BASE = {"embedding_dim": 10}
NAMES = {"tml": "tokenmixer_large", "rankmixer": "rankmixer", "dcnv2": "dcnv2", "wukong": "wukong"}
SIZES: dict[str, list[dict[str, Any]]] = {
    "tml": [
        {"hidden_dim": 16, "n_blocks": 1, "expansion": 1},
        {"hidden_dim": 24, "n_blocks": 2, "expansion": 1},
        {"hidden_dim": 48, "n_blocks": 2, "expansion": 1},
        {"hidden_dim": 112, "n_blocks": 2, "expansion": 1},
        {"hidden_dim": 336, "n_blocks": 2, "expansion": 1},
    ],
    "rankmixer": [
        {"tokens": 4, "hidden_dim": 20, "n_blocks": 2, "expansion": 1},
        {"tokens": 4, "hidden_dim": 40, "n_blocks": 2, "expansion": 1},
        {"tokens": 4, "hidden_dim": 72, "n_blocks": 2, "expansion": 2},
        {"tokens": 4, "hidden_dim": 168, "n_blocks": 2, "expansion": 2},
        {"tokens": 4, "hidden_dim": 560, "n_blocks": 2, "expansion": 2},
    ],
    "dcnv2": [
        {"cross_layers": 1, "hidden": [48], "dropout": 0.0},
        {"cross_layers": 2, "hidden": [160], "dropout": 0.0},
        {"cross_layers": 3, "hidden": [300, 300], "dropout": 0.0},
        {"cross_layers": 3, "hidden": [900, 900], "dropout": 0.0},
        {"cross_layers": 3, "hidden": [3100, 3100], "dropout": 0.0},
    ],
    "wukong": [
        {"layers": 1, "compressed": 4, "interacted": 4, "rank": 4, "hidden": [32], "top": [64]},
        {"layers": 2, "compressed": 8, "interacted": 8, "rank": 8, "hidden": [64], "top": [80]},
        {"layers": 2, "compressed": 16, "interacted": 16, "rank": 16, "hidden": [128], "top": [160, 160]},
        {"layers": 3, "compressed": 32, "interacted": 32, "rank": 24, "hidden": [256], "top": [256]},
        {"layers": 3, "compressed": 64, "interacted": 64, "rank": 32, "hidden": [896], "top": [512]},
    ],
}
# of each size, smallest first: what the results and the claim were measured with
SEEDS = {
    "tml": (3, 3, 3, 2, 1),
    "rankmixer": (2, 2, 2, 2, 1),
    "dcnv2": (2, 2, 2, 2, 1),
    "wukong": (2, 2, 2, 2, 1),
}


def main() -> None:
    """Read the words of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("run", "report"), default="report")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--seeds", type=int, help="of every size; default: SEEDS")
    parser.add_argument("--sizes", nargs="*", type=int, help="of SIZES, by number; default: all")
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        store = given.store.with_suffix(".quick.jsonl")
        store.unlink(missing_ok=True)
        for size in (0, 1):
            cell(store, "tml", size, 0, rows=5000)
        print(
            json.dumps({"claim": "ranking.scaling-gain", "figure": gain(quality.cells(store)), "quick": True})
        )
    elif given.what == "run":
        for model, size, seed in asked(given.models or list(NAMES), given.sizes, given.seeds):
            cell(given.store, model, size, seed)
        report(given.store)
    else:
        report(given.store)


def asked(models: list[str], sizes: list[int] | None, seeds: int | None) -> list[tuple[str, int, int]]:
    """(model, size, seed) of the cells to measure, seed by seed."""
    found = [
        (model, size, seed)
        for model in models
        for size in sizes or range(len(SIZES[model]))
        for seed in range(seeds or SEEDS[model][size])
    ]
    return sorted(found, key=lambda one: (one[2], models.index(one[0]), one[1]))


def cell(store: Path, model: str, size: int, seed: int, rows: int = 0) -> None:
    """Fit and ask once, unless the store has it."""
    if any((one["model"], one["size"], one["seed"]) == (model, size, seed) for one in quality.cells(store)):
        return
    from recengine.training import fit

    settings = {**BASE, **SIZES[model][size]}
    began = time.perf_counter()
    split = quality.split_of("ml-1m", rows)
    run: Any = fit(NAMES[model], split, settings={"model": settings, "training": TRAINING}, seed=seed)
    found = run.evaluate()
    names = {n: p.numel() for n, p in run.model.named_parameters()}
    told = {
        "model": model,
        "size": size,
        "seed": seed,
        "settings": settings,
        "weights": sum(count for name, count in names.items() if not name.endswith(".table")),
        "flops": flops(run),
        "auc": found["auc"],
        "log_loss": found["log_loss"],
        "seconds": round(time.perf_counter() - began, 1),
        "processor": quality.processor(),
    }
    store.parent.mkdir(parents=True, exist_ok=True)
    with store.open("a") as file:
        file.write(json.dumps(told) + "\n")
    print(told, flush=True)


def flops(run: Any) -> float:
    """Of one row forward: as torch counts matrix products, and of the blocks of TokenMixer-Large as its
    formula counts them (torch does not see into their operator)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from recengine.contracts.batch import FeatureBatch
    from recengine_plugins.tokenmixer_large import counting

    batch = FeatureBatch(**run.split.test.take(np.arange(64)).tensors())
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        run.model.eval()(batch.features)
    counted = counter.get_total_flops() / 64
    if run.name == "tokenmixer_large":
        counted += counting.blocks(run.model.config, run.model.tokens.tokens).flops
    return float(counted)


def report(store: Path) -> None:
    """bench/results/ranking_scaling.* and the figure of the claim."""
    found = quality.cells(store)
    lines = [
        "# Click models by size, ml-1m",
        "",
        *(line.strip() for line in str(__doc__).splitlines()[6:]),
        "",
        f"{', '.join(sorted({one['processor'] for one in found}))}, "
        f"{time.strftime('%Y-%m-%d', time.gmtime())}. Means over the seeds.",
        "",
        "| model | weights | FLOPs a row | seeds | AUC | log loss |",
        "|---|---|---|---|---|---|",
    ]
    laws: dict[str, Any] = {}
    for model in NAMES:
        mine = mean_by_size([one for one in found if one["model"] == model])
        lines += [
            f"| {model} | {one['weights']:,.0f} | {one['flops']:,.0f} | {one['seeds']:.0f} "
            f"| {one['auc']:.4f} | {one['log_loss']:.4f} |"
            for one in mine
        ]
        cells = [one for one in found if one["model"] == model]
        if len(cells) > 3:
            laws[model] = power_law(cells)
    lines += ["", "| model | b | 95 % interval of b | floor |", "|---|---|---|---|"]
    for model, law in laws.items():
        lines.append(
            f"| {model} | {law['b']:.3f} | {law['low']:.3f} to {law['high']:.3f} | {law['floor']:.4f} |"
        )
    lines += [
        "",
        "Where an interval spans [0, 2], the law is not identified by what was run.",
        "",
        "![AUC by weights and by FLOPs](ranking_scaling.png)",
    ]
    (quality.RESULTS / "ranking_scaling.md").write_text("\n".join(lines) + "\n")
    told = {"training": TRAINING, "laws": laws, "cells": found}
    (quality.RESULTS / "ranking_scaling.json").write_text(json.dumps(told, indent=1) + "\n")
    draw(found)
    if len({one["size"] for one in found if one["model"] == "tml"}) > 1:
        print(json.dumps({"claim": "ranking.scaling-gain", "figure": gain(found)}))


def gain(found: list[dict[str, Any]]) -> float:
    """AUC of the largest TokenMixer-Large less that of the smallest, means over their seeds."""
    mine = mean_by_size([one for one in found if one["model"] == "tml"])
    return round(mine[-1]["auc"] - mine[0]["auc"], 5)


def mean_by_size(found: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Means over seeds and their number, smallest first."""
    sizes = sorted({one["size"] for one in found})
    keys = ("weights", "flops", "auc", "log_loss")
    by = [[one for one in found if one["size"] == size] for size in sizes]
    return [
        {"seeds": len(own)} | {key: float(np.mean([one[key] for one in own])) for key in keys} for own in by
    ]


def power_law(mine: list[dict[str, Any]]) -> dict[str, float]:
    """floor + a (N / 1e5)^-b of the log loss of these cells, and Student's interval of b."""
    from scipy.optimize import curve_fit
    from scipy.stats import t

    n = np.array([one["weights"] for one in mine]) / 1e5
    loss = np.array([one["log_loss"] for one in mine])

    def law(x: Any, floor: float, a: float, b: float) -> Any:
        return floor + a * x**-b

    start = (loss.min() - 0.005, 0.01, 0.3)
    best, spread = curve_fit(law, n, loss, p0=start, bounds=([0, 0, 0], [1, 1, 2]), maxfev=20_000)
    half = float(t.ppf(0.975, len(n) - 3) * np.sqrt(spread[2, 2])) if np.isfinite(spread[2, 2]) else np.inf
    return {"floor": best[0], "a": best[1], "b": best[2], "low": best[2] - half, "high": best[2] + half}


def draw(found: list[dict[str, Any]]) -> None:
    """bench/results/ranking_scaling.png."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.8), sharey=True, layout="constrained")
    styles = {"tml": ("o-", "TokenMixer-Large"), "rankmixer": ("s--", "RankMixer")}
    styles |= {"dcnv2": ("^:", "DCNv2"), "wukong": ("d-.", "Wukong")}
    for panel, key, name in zip(
        panels, ("weights", "flops"), ("Weights beside the tables", "FLOPs a row"), strict=True
    ):
        for model, (style, label) in styles.items():
            mine = mean_by_size([one for one in found if one["model"] == model])
            panel.plot(
                [one[key] for one in mine], [one["auc"] for one in mine], style, label=label, markersize=5
            )
        panel.set_xscale("log")
        panel.set_xlabel(name)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("AUC on ml-1m, one pass")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(quality.RESULTS / "ranking_scaling.png", dpi=130)


if __name__ == "__main__":
    main()
