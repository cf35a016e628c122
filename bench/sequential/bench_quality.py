"""Quality of the sequence models: full ranking, leave-two-out, validation chooses the epoch, test asked once.

    python bench/sequential/bench_quality.py run DATA MODEL... [--seeds 5] [--store FOLDER]
    python bench/sequential/bench_quality.py report [--store FOLDER]
    python bench/sequential/bench_quality.py --quick

``run`` measures cells (data, model, seed) that are not in the store yet and can be stopped at any time;
``report`` puts the store's cells beside those that bench/results/sequential_quality_cells/ holds (a target's
place for every user), makes bench/results/sequential_quality.* of them and says what is missing. Rows that
were measured before cells were kept stay as they are until as many seeds have been measured again.

All models: width 64, two blocks, the last 50 events, 128 sequences a step, Adam, the loss that the plugin
names (full softmax; gSASRec: gBCE with 256 items a row). The spread of the first weights is each plugin's
default (masked models .1, others .02), but .1 for SASRec and gSASRec on MovieLens, which had that default
when they were run there; on its validation users the two spreads do not differ, on those of Sports .1 costs
SASRec half its NDCG@10 (the card). The masked models begin with .02, too, on Sports and Video: BERT4Rec's
validation NDCG@10 on Sports after six epochs is .0114 so, .0095 with .1. Chosen on the validation users of
MovieLens-100k with one seed (tune_quality.py): the .1 of the masked models elsewhere (tried with Cotten4Rec
and BERT4Rec), their step size, 2e-3, and Cotten4Rec's even start. Dropout and hidden share of a data set are
given (SETTINGS).
MovieLens: until 8 (16, of three epochs each, for masked models) validations bring nothing better, at most 100
(240) epochs. Amazon sets, masked models: a bounded course that is the same for all of them, so that nobody's
luck with a stopping rule enters: as many targets as PASSES epochs have in which every event is one (on Beauty
40 epochs, since .4 of the events are hidden); the step size falls linearly to zero. Amazon sets, next-item
models: until 4 validations bring nothing better, at most 25 epochs.
Intervals: over users, of the mean over seeds. Differences: the crossed test over users and seeds where there
are at least two seeds, over users where there is one.
Uniform-100 and popularity-100 are extras, labelled as such: they are no estimate of the full ranking.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import datasets
import kept_cells
import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
KEPT = RESULTS / "sequential_quality_cells"
MODELS = ("cotten4rec", "bert4rec", "linrec", "sasrec", "gsasrec", "hstu", "gru4rec")
# Cotten4Rec's causal kernel: trained on hidden events as before, and on the next event. Beside the question.
FORMS: dict[str, dict[str, Any]] = {
    "cotten4rec-causal": {"direction": "causal"},
    "cotten4rec-next": {"direction": "causal", "objective": "next"},
}
MASKED = ("cotten4rec", "cotten4rec-causal", "bert4rec", "linrec")
PAIRS = (
    ("cotten4rec", "bert4rec"),
    ("cotten4rec-causal", "cotten4rec"),
    ("cotten4rec-next", "cotten4rec"),
    ("cotten4rec-next", "sasrec"),
)
ASKED = ("beauty", "sports", "video", "ml-100k")
SETTINGS: dict[str, dict[str, Any]] = {
    "ml-100k": {"dropout": 0.2, "mask_share": 0.2, "last_share": 0.1},
    "ml-latest-small": {"dropout": 0.2, "mask_share": 0.2, "last_share": 0.1},
    "beauty": {"dropout": 0.5, "mask_share": 0.4, "last_share": 0.2},
    "sports": {"dropout": 0.5, "mask_share": 0.4, "last_share": 0.2},
    "video": {"dropout": 0.5, "mask_share": 0.4, "last_share": 0.2},
    "bert4rec-beauty": {"dropout": 0.5, "mask_share": 0.4, "last_share": 0.2},
}
NEXT_TRAINING = {"learning_rate": 1e-3, "epochs": 100, "evaluate_every": 1, "patience": 8}
MASKED_TRAINING = {"learning_rate": 2e-3, "epochs": 240, "evaluate_every": 3, "patience": 16}
LARGE_TRAINING = {"epochs": 25, "patience": 4}  # next-item models on the Amazon sets
# Passes of a bounded course in which every event is a target: 2,400 to 2,800 steps of 128 sequences.
PASSES = {"beauty": 16, "sports": 10, "video": 10, "bert4rec-beauty": 9}
LEVELS = {
    ("beauty", "sasrec"): {"recall@10": 0.0605, "ndcg@10": 0.0318},
    ("sports", "sasrec"): {"recall@10": 0.0350, "ndcg@10": 0.0192},
    ("ml-100k", "bert4rec"): {"recall@10": 0.1029, "ndcg@10": 0.0531},
}
METRICS = ("ndcg", "recall")
EARLIER = "Intel(R) Xeon(R) Processor"  # of rows from before cells were kept


def settings(data: str, model: str, epochs: int | None) -> dict[str, Any]:
    """Settings of a cell."""
    given = {**SETTINGS[data], **FORMS.get(model, {})}
    if model in MASKED:
        given["init_std"] = 0.02 if data in ("sports", "video") else 0.1
    else:
        del given["mask_share"], given["last_share"]
        if model in ("sasrec", "gsasrec"):
            given["init_std"] = 0.02 if data in PASSES else 0.1
    training = dict(MASKED_TRAINING if model in MASKED else NEXT_TRAINING)
    if data in PASSES and model in MASKED:
        share = given["mask_share"]
        training |= {
            "epochs": round(PASSES[data] / share),
            "evaluate_every": round(2 / share),
            "schedule": "linear",
            "patience": 0,
        }
    elif data in PASSES:
        training |= LARGE_TRAINING
    if epochs is not None:
        training["epochs"] = epochs
    return {
        "model": {"hidden_dim": 64, "max_length": 50, **given},
        "training": {"batch_size": 128, "device": "cpu", **training},
    }


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def cell(store: Path, data: str, model: str, seed: int, epochs: int | None = None) -> None:
    """Fit, choose the epoch on validation, ask the test once (in three ways), keep the values by user. A fit
    that was stopped goes on from its last checkpoint."""
    from recengine.evaluation import Protocol
    from recengine.training import fit

    folder = store / f"{data}-{model}-{seed}"
    if (folder / "cell.json").exists():
        return
    asked = settings(data, model, epochs)
    begun = time.process_time()
    name = "cotten4rec" if model in FORMS else model
    run = fit(name, datasets.load(data), settings=asked, seed=seed, directory=folder / "run", resume=True)
    found = run.evaluate(metrics=METRICS)
    found.write(folder)
    extras = {
        kind: {name: float(np.nanmean(sampled.values(name))) for name in sampled.metrics}
        for kind in ("uniform-100", "popularity-100")
        for sampled in [run.evaluate(metrics=METRICS, protocol=Protocol(candidates=kind))]
    }
    best = max(run.history, key=lambda entry: entry.get("ndcg@10", -1.0))
    (folder / "cell.json").write_text(
        json.dumps(
            {
                "data": data,
                "model": model,
                "seed": seed,
                "settings": asked,
                "epochs": len(run.history),
                "best_epoch": best["epoch"],
                "validation_ndcg@10": best["ndcg@10"],
                "train_s": sum(entry["seconds"] for entry in run.history),
                "cpu_s_of_the_last_sitting": time.process_time() - begun,
                "extras": extras,
                "protocol": found.protocol.describe(),
                "given": _given(folder, asked),
                "processor": processor(),
                **{name: float(np.nanmean(found.values(name))) for name in found.metrics},
            }
        )
    )
    print(json.dumps({"cell": folder.name, **{name: found[name] for name in found.metrics}}), flush=True)


def keep(store: Path, kept: Path) -> None:
    """The store's finished cells, those that are not kept yet, in a few kilobytes each."""
    from recengine.evaluation import Evaluation

    for path in sorted(store.glob("*/cell.json")):
        if not (kept / f"{path.parent.name}.npz").exists():
            ndcg = Evaluation.read(path.parent).values("ndcg@10")
            kept_cells.write(kept / f"{path.parent.name}.npz", ndcg, json.loads(path.read_text()))


def report(kept: Path, before: dict[str, Any]) -> dict[str, Any]:
    """What is kept: levels with intervals, differences from BERT4Rec, what is missing. ``before``: an earlier
    report, whose rows stand where they are of more seeds."""
    from recengine.evaluation import Protocol
    from recengine.evaluation.intervals import t_interval
    from recengine.evaluation.systems import System

    cells = [kept_cells.read(path) for path in sorted(kept.glob("*.npz"))]
    earlier = {(row["data"], row["model"]): row for row in before.get("table", [])}
    table, differences = [], []
    for data in dict.fromkeys([*ASKED, *(told["data"] for _, told in cells)]):
        systems = {}
        for model in (*MODELS, *FORMS):
            runs = {
                told["seed"]: (scores, told)
                for scores, told in cells
                if (told["data"], told["model"]) == (data, model)
            }
            old = earlier.get((data, model), {"data": data, "model": model, "seeds": []})
            if len(runs) <= len(old["seeds"]) and not (runs and set(old["seeds"]) <= set(runs)):
                table.append(old)
                continue
            seeds = sorted(runs)
            tables = {
                name: np.stack([runs[seed][0][name] for seed in seeds], axis=1) for name in runs[seeds[0]][0]
            }
            protocol = Protocol.from_description(runs[seeds[0]][1]["protocol"])
            users = tuple(range(len(next(iter(tables.values())))))
            systems[model] = System(model, users, tuple(seeds), tables, protocol)
            row: dict[str, Any] = {"data": data, "model": model, "seeds": seeds}
            for name, scores in tables.items():
                by_user = scores.mean(axis=1)
                row[name] = {"mean": float(by_user.mean()), "interval": t_interval(by_user)}
            told = [runs[seed][1] for seed in seeds]
            row["given"] = "; ".join(sorted({one["given"] for one in told}))
            row["processor"] = "; ".join(sorted({one["processor"] for one in told}))
            row["best_epochs"] = [one["best_epoch"] for one in told]
            row["train_s"] = float(np.median([one["train_s"] for one in told]))
            row["extras"] = {
                kind: {
                    name: float(np.mean([one["extras"][kind][name] for one in told]))
                    for name in ("ndcg@10", "recall@10")
                }
                for kind in ("uniform-100", "popularity-100")
            }
            table.append(row)
        for model, against in PAIRS:
            found = _difference(data, systems, model, against)
            old = next(
                (one for one in before.get("differences", []) if _of(one) == (data, model, against)), None
            )
            one = found if found and (not old or len(old["seeds"]) <= len(found["seeds"])) else old
            differences += [one] if one else []
    return {"table": table, "differences": differences}


def _difference(data: str, systems: dict[str, Any], model: str, against: str) -> dict[str, Any] | None:
    """NDCG@10 of one model less that of another over the latter's, for the seeds that both have."""
    from recengine.evaluation.comparing import compare_systems

    if not {model, against} <= systems.keys():
        return None
    both = set(systems[model].seeds) & set(systems[against].seeds)
    if not both:
        return None
    pair = [_on_seeds(systems[name], both) for name in (model, against)]
    test = compare_systems(pair, metrics=["ndcg@10"], correction="none").pairs[0]
    base = float(np.nanmean(pair[1].scores["ndcg@10"]))
    return {
        "data": data,
        "model": model,
        "against": against,
        "seeds": sorted(both),
        "relative": test.relative,
        "interval": [test.test.low / base, test.test.high / base],
        "p": test.test.p_value,
    }


def _of(difference: dict[str, Any]) -> tuple[str, str, str]:
    """What a difference is of; that of Cotten4Rec from BERT4Rec was the only one once."""
    return (
        difference["data"],
        difference.get("model", "cotten4rec"),
        difference.get("against", "bert4rec"),
    )


def _given(cell: Path, settings: dict[str, Any]) -> str:
    """What differs between cells: spread of the first weights, step size, patience or a bounded course."""
    effective = tomllib.loads((cell / "run" / "config.toml").read_text())["model"]
    training = settings["training"]
    falls = training.get("schedule", "constant") != "constant"
    course = f"{training['epochs']} epochs, falling" if falls else f"patience {training['patience']}"
    return f"{effective['init_std']:g}, {training.get('learning_rate', 1e-3):g}, {course}"


def _on_seeds(system: Any, seeds: set[int]) -> Any:
    from dataclasses import replace

    at = [index for index, seed in enumerate(system.seeds) if seed in seeds]
    scores = {name: values[:, at] for name, values in system.scores.items()}
    return replace(system, seeds=tuple(system.seeds[index] for index in at), scores=scores)


def figures(found: dict[str, Any]) -> dict[str, float]:
    """Claim by claim, what is measured."""
    beside = {"gru4rec", *FORMS}
    asked = [row for row in found["table"] if row["data"] in ASKED and row["model"] not in beside]
    made = {"sequential.quality-cells": float(sum(min(5, len(row["seeds"])) for row in asked))}
    for row in found["table"]:
        for metric, bar in LEVELS.get((row["data"], row["model"]), {}).items():
            if metric in row:
                name = metric.partition("@")[0]
                made[f"sequential.{row['data']}-{row['model']}-{name}"] = row[metric]["mean"]
                assert bar > 0
    for one in found["differences"]:
        data, *pair = _of(one)
        if tuple(pair) == PAIRS[0]:
            made[f"sequential.cotten4rec-of-bert4rec-{data}"] = 1 + one["relative"]
    return made


def page(found: dict[str, Any], head: dict[str, Any]) -> str:
    """The result as a page."""
    lines = [
        "# Quality of the sequence models",
        "",
        f"{head['processor']}, {head['date']}, torch {head['torch']}; `{head['script']}`. Full ranking, seen "
        "items left out, leave-two-out, validation NDCG@10 chose the epoch, the test was asked once. "
        "Intervals: 95 %, over users, of the mean over seeds. " + head["cut"],
        "",
        "| data | model | seeds | NDCG@10 | Recall@10 | first spread, step, course | best epoch "
        "| uniform-100 NDCG@10 (extra) | popularity-100 NDCG@10 (extra) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["table"]:
        if not row["seeds"] and row["model"] in FORMS:
            continue
        if not row["seeds"]:
            lines.append(f"| {row['data']} | {row['model']} | not measured | | | | | | |")
            continue
        cells = [
            "{:.4f} ({:.4f} to {:.4f})".format(row[name]["mean"], *row[name]["interval"])
            for name in ("ndcg@10", "recall@10")
        ]
        cells += [row["given"], ", ".join(map(str, row["best_epochs"]))]
        cells += [f"{row['extras'][kind]['ndcg@10']:.4f}" for kind in ("uniform-100", "popularity-100")]
        lines.append(f"| {row['data']} | {row['model']} | {len(row['seeds'])} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Differences of NDCG@10, relative (cotten4rec-causal: with the causal kernel, hidden events;",
    ]
    lines += ["cotten4rec-next: with the causal kernel, the next event):", ""]
    for one in found["differences"]:
        data, model, against = _of(one)
        low, high = (f"{100 * end:+.1f}" for end in one["interval"])
        lines.append(
            f"* {data}, {model} against {against}, {len(one['seeds'])} seeds: {100 * one['relative']:+.1f} % "
            f"({low} to {high} %)"
        )
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="run DATA MODEL..., or report")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--store", type=Path, default=Path(tempfile.gettempdir()) / "recengine_quality")
    parser.add_argument("--cut", help="a sentence on what was left out, for the page; else the earlier one")
    parser.add_argument("--quick", action="store_true", help="one seed of two models for two epochs")
    asked = parser.parse_args()
    before: dict[str, Any] = {}
    if asked.quick:
        with tempfile.TemporaryDirectory() as folder:
            for model in ("cotten4rec", "bert4rec"):
                cell(Path(folder), "ml-100k", model, 0, epochs=2)
            keep(Path(folder), Path(folder) / "kept")
            found = report(Path(folder) / "kept", {})
    elif asked.words[:1] == ["run"]:
        data, models = asked.words[1], asked.words[2:] or MODELS
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
            for model in models:
                cell(asked.store, data, model, seed)
        return 0
    else:
        keep(asked.store, KEPT)
        written = RESULTS / "sequential_quality.json"
        before = json.loads(written.read_text()) if written.exists() else {}
        found = report(KEPT, before)
    made = figures(found)
    if not asked.quick:
        import torch

        sys.path.insert(0, str(HERE))
        head = {
            "script": "bench/sequential/bench_quality.py",
            "date": datetime.now(UTC).date().isoformat(),
            "processor": "; ".join(
                sorted({row.get("processor", EARLIER) for row in found["table"] if row["seeds"]})
            ),
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "settings": {data: settings(data, "cotten4rec", None) for data in SETTINGS},
            "cut": before.get("cut", "") if asked.cut is None else asked.cut,
        }
        RESULTS.mkdir(exist_ok=True)
        whole = {**head, "figures": made, **found}
        (RESULTS / "sequential_quality.json").write_text(json.dumps(whole, indent=1) + "\n")
        (RESULTS / "sequential_quality.md").write_text(page(found, head))
    for claim, figure in made.items():
        print(json.dumps({"claim": claim, "figure": figure}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
