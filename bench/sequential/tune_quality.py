"""Settings of the masked models by the validation users: POINTS for all of them, OWN for Cotten4Rec beside.

    python bench/sequential/tune_quality.py run DATA MODEL [POINT...] [--seed 0] [--store FOLDER]
        [--epochs 40]
    python bench/sequential/tune_quality.py report [--store FOLDER] [--note TEXT]

``run`` fits what is not in the store yet and keeps the best validation NDCG@10; the test users are not asked.
``report`` writes bench/results/sequential_tuning.* of the store and of the points kept there already, best
first; short courses (--epochs) apart. What is said there in words is kept, or replaced by --note.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import datasets
import record
from quality_courses import settings

KEPT = record.RESULTS / "sequential_tuning.json"
EARLIER = "Intel(R) Xeon(R) Processor"  # of points that do not name theirs
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
    "small-slow": SMALL,
    "large-slow": {**SMALL, "model.init_std": 0.1},
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
    asked = settings(data, model, epochs)
    flat = {f"{part}.{key}": value for part, values in asked.items() for key, value in values.items()}
    given = {**flat, **settings_of(model, name)}
    run = fit(model, datasets.load(data), settings=given, seed=seed, directory=folder / "run", resume=True)
    best = max(run.history, key=lambda entry: entry.get("ndcg@10", -1.0))
    found = {
        "data": data,
        "model": model,
        "seed": seed,
        "settings": settings_of(model, name) | ({"training.epochs": epochs} if epochs else {}),
        "validation_ndcg@10": best["ndcg@10"],
        "best_epoch": best["epoch"],
        "train_s": sum(entry["seconds"] for entry in run.history),
        "processor": record.processor(),
    }
    (folder / "point.json").write_text(json.dumps(found))
    print(json.dumps(found), flush=True)


def merged(kept: list[dict[str, Any]], newer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kept points, those that were fitted again replaced, then the others."""

    def key(one: dict[str, Any]) -> str:
        return json.dumps([one["data"], one["model"], one["seed"], one["settings"]], sort_keys=True)

    return list({key(one): one for one in [*kept, *newer]}.values())


def rows(points: list[dict[str, Any]], short: bool) -> list[dict[str, Any]]:
    """The lines of one table, best first within data and model: of short courses, or of whole ones."""
    chosen = [one for one in points if ("training.epochs" in one["settings"]) == short]
    chosen.sort(key=lambda one: (one["data"], one["model"], -one["validation_ndcg@10"]))
    return [
        {
            "data": one["data"],
            "model": one["model"],
            "seed": one["seed"],
            "settings": ", ".join(
                f"{name.partition('.')[2]} {value}"
                for name, value in one["settings"].items()
                if name not in ("training.patience", "training.schedule")
            ),
            "NDCG@10 (validation)": f"{one['validation_ndcg@10']:.4f}",
            "epoch": one["best_epoch"],
        }
        for one in chosen
    ]


def report(store: Path, note: str | None) -> None:
    """Write the page and its data."""
    before = json.loads(KEPT.read_text())
    points = merged(
        before["points"], [json.loads(path.read_text()) for path in sorted(store.glob("*/point.json"))]
    )
    note = before["note"] if note is None else note
    head = record.head("tune_quality.py", points=points, note=note)
    head["processor"] = ", ".join(sorted({one.get("processor", EARLIER) for one in points}))
    text = [
        "Best validation NDCG@10; these fits did not ask the test users. Not given: width 64, two blocks, "
        "two heads, on MovieLens-100k dropout .2, hidden share .2, newest alone .1, patience 8; on the other "
        "sets as in `sequential_quality.md`.",
        "",
        note,
        "",
        "## Whole courses",
        "",
        *record.table(rows(points, short=False)),
        "",
        "## Short courses",
        "",
        *record.table(rows(points, short=True)),
    ]
    record.write("sequential_tuning", head, "Settings of the sequence models by their validation users", text)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="+", help="run DATA MODEL [POINT...], or report")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, default=Path(tempfile.gettempdir()) / "recengine_tuning")
    parser.add_argument("--epochs", type=int, help="length of a short trial")
    parser.add_argument("--note", help="what the page says in words; else what it said before")
    asked = parser.parse_args()
    if asked.words[0] == "run":
        _, data, model, *names = asked.words
        for name in names or (POINTS | OWN if model == "cotten4rec" else POINTS):
            point(asked.store, data, model, name, asked.seed, asked.epochs)
        return 0
    report(asked.store, asked.note)
    return 0


if __name__ == "__main__":
    sys.exit(main())
