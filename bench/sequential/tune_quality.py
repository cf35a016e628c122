"""Settings of the masked models by the validation users: POINTS for all of them, OWN for Cotten4Rec beside.

    python bench/sequential/tune_quality.py run DATA MODEL [POINT...] [--seed 0] [--store FOLDER]
    python bench/sequential/tune_quality.py report [--store FOLDER]

``run`` fits what is not in the store yet and keeps the best validation NDCG@10; the test users are not asked.
``report`` prints every point of every model, best first.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import bench_quality
import datasets

SMALL = {"model.init_std": 0.02, "training.learning_rate": 1e-3}  # of Cotten4Rec with even_start 0
POINTS: dict[str, dict[str, Any]] = {
    "chosen": {},
    "init-02": SMALL,
    "init-05": {**SMALL, "model.init_std": 0.05},
    "init-10": {**SMALL, "model.init_std": 0.1},
    "init-20": {**SMALL, "model.init_std": 0.2},
    "init-01": {**SMALL, "model.init_std": 0.01},
    "small-start": {"model.init_std": 0.02},
    "large-start": {"model.init_std": 0.1},
    "fast": {"training.learning_rate": 2e-3},
    "faster": {"training.learning_rate": 4e-3},
    "init-02-last-40": {**SMALL, "model.last_share": 0.4},
    "init-02-mask-40": {**SMALL, "model.mask_share": 0.4},
    "init-02-dropout-35": {**SMALL, "model.dropout": 0.35},
}
OWN: dict[str, dict[str, Any]] = {
    "uneven-start": {"model.even_start": 0.0},
    "half-even-start": {"model.even_start": 1.0},
    "half-even-start-slow": {"model.even_start": 1.0, "training.learning_rate": 1e-3},
    "half-even-start-one-head": {"model.even_start": 1.0, "model.n_heads": 1},
}


def settings_of(model: str, name: str) -> dict[str, Any]:
    """What a point sets for a model, beside what bench_quality gives all of them."""
    if model == "cotten4rec":
        before = {"model.even_start": 0.0} if name.startswith("init-") else {}
        return {"training.patience": 8, **before, **(POINTS | OWN)[name]}
    return {"training.patience": 8, **POINTS[name]}


def point(store: Path, data: str, model: str, name: str, seed: int, epochs: int | None = None) -> None:
    """Fit one point, for so many epochs where given, and keep its best validation value."""
    from recengine.training import fit

    folder = store / f"{data}-{model}-{name}-{seed}{f'-{epochs}' if epochs else ''}"
    if (folder / "point.json").exists():
        return
    asked = bench_quality.settings(data, model, epochs)
    flat = {f"{part}.{key}": value for part, values in asked.items() for key, value in values.items()}
    given = {**flat, **settings_of(model, name)}
    run = fit(model, datasets.load(data), settings=given, seed=seed, directory=folder / "run", resume=True)
    best = max(run.history, key=lambda entry: entry.get("ndcg@10", -1.0))
    found = {
        "data": data,
        "model": model,
        "point": name,
        "seed": seed,
        "settings": settings_of(model, name) | ({"training.epochs": epochs} if epochs else {}),
        "validation_ndcg@10": best["ndcg@10"],
        "best_epoch": best["epoch"],
        "train_s": sum(entry["seconds"] for entry in run.history),
    }
    (folder / "point.json").write_text(json.dumps(found))
    print(json.dumps(found), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="+", help="run DATA MODEL [POINT...], or report")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, default=Path(tempfile.gettempdir()) / "recengine_tuning")
    parser.add_argument("--epochs", type=int, help="length of a short trial")
    asked = parser.parse_args()
    if asked.words[0] == "run":
        _, data, model, *names = asked.words
        for name in names or (POINTS | OWN if model == "cotten4rec" else POINTS):
            point(asked.store, data, model, name, asked.seed, asked.epochs)
        return 0
    found = [json.loads(path.read_text()) for path in asked.store.glob("*/point.json")]
    for one in sorted(found, key=lambda row: (row["data"], row["model"], -row["validation_ndcg@10"])):
        print(json.dumps(one))
    return 0


if __name__ == "__main__":
    sys.exit(main())
