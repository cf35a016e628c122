"""Quality of the sequence models: full ranking, leave-two-out, validation chooses the epoch, test asked once.

    python bench/sequential/bench_quality.py run DATA MODEL... [--seeds 5] [--store FOLDER]
    python bench/sequential/bench_quality.py report [--store FOLDER]
    python bench/sequential/bench_quality.py claim ID [--store FOLDER] [--quick]
    python bench/sequential/bench_quality.py --quick

``run`` measures cells (data, model, seed) that are not in the store yet and can be stopped at any time;
``report`` puts the store's cells beside those that bench/results/sequential_quality_cells/ holds (a target's
place for every user), makes bench/results/sequential_quality.* of them and says what is missing. ``claim``
measures the cells of a claim and prints its figure from them alone; with --quick one seed for two epochs.

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
import record
from quality_courses import ASKED, FORMS, MODELS, SETTINGS, settings
from quality_report import figures, page, report

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
KEPT = RESULTS / "sequential_quality_cells"
METRICS = ("ndcg", "recall")


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
                "processor": record.processor(),
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


def _given(cell: Path, settings: dict[str, Any]) -> str:
    """What differs between cells: spread of the first weights, step size, patience or a bounded course."""
    effective = tomllib.loads((cell / "run" / "config.toml").read_text())["model"]
    training = settings["training"]
    falls = training.get("schedule", "constant") != "constant"
    course = f"{training['epochs']} epochs, falling" if falls else f"patience {training['patience']}"
    return f"{effective['init_std']:g}, {training.get('learning_rate', 1e-3):g}, {course}"


def cells_of(claim: str) -> tuple[list[str], list[str]]:
    """Data sets and models that a claim needs."""
    six = [model for model in MODELS if model != "gru4rec"]
    name = claim.removeprefix("sequential.")
    if name == "quality-cells":
        return list(ASKED), six
    for data in ASKED:
        if name == f"cotten4rec-of-bert4rec-{data}":
            return [data], ["cotten4rec", "bert4rec"]
        for model in six:
            if name in (f"{data}-{model}-ndcg", f"{data}-{model}-recall"):
                return [data], [model]
    sys.exit(f"no claim of this script: {claim}; they are sequential.DATA-MODEL-ndcg and the like")


def claim(name: str, store: Path, seeds: int, epochs: int | None) -> dict[str, float]:
    """Measure a claim's cells and give its figures from them alone."""
    sets, models = cells_of(name)
    for seed in range(seeds):
        for data in sets:
            for model in models:
                cell(store, data, model, seed, epochs)
    with tempfile.TemporaryDirectory() as folder:
        keep(store, Path(folder))
        made = figures(report(Path(folder)))
    return {name: made[name]}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="run DATA MODEL..., claim ID, or report")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--store", type=Path, default=Path(tempfile.gettempdir()) / "recengine_quality")
    parser.add_argument("--cut", help="a sentence on what was left out, for the page; else the earlier one")
    parser.add_argument("--quick", action="store_true", help="one seed of two models for two epochs")
    asked = parser.parse_args()
    before: dict[str, Any] = {}
    if asked.words[:1] == ["claim"]:
        with tempfile.TemporaryDirectory() as folder:
            store, seeds, epochs = (Path(folder), 1, 2) if asked.quick else (asked.store, asked.seeds, None)
            for name, figure in claim(asked.words[1], store, seeds, epochs).items():
                print(json.dumps({"claim": name, "figure": figure}))
        return 0
    if asked.quick:
        with tempfile.TemporaryDirectory() as folder:
            for model in ("cotten4rec", "bert4rec"):
                cell(Path(folder), "ml-100k", model, 0, epochs=2)
            keep(Path(folder), Path(folder) / "kept")
            found = report(Path(folder) / "kept")
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
        found = report(KEPT)
    made = figures(found)
    if not asked.quick:
        import torch

        head = {
            "script": "bench/sequential/bench_quality.py",
            "date": datetime.now(UTC).date().isoformat(),
            "processor": "; ".join(sorted({row["processor"] for row in found["table"] if row["seeds"]})),
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
    for name, figure in made.items():
        print(json.dumps({"claim": name, "figure": figure}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
