"""Popularity, EASE, iALS, BPR and SASRec on ml-100k and ml-latest-small, ten seeds each: the evaluations.

Deterministic models are fitted once. A finished fit leaves its evaluation (per-user scores) below --store and
is not made again, so a stopped call goes on where it was. What the evaluations say is the work of
real_models.py.

    python bench/evidence/fit_real_models.py [--store FOLDER]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from recengine.data import Interactions, read
from recengine.evaluation import Evaluation
from recengine.training import fit

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RECENGINE_DATA", REPOSITORY.parent / "shared" / "data"))
STORE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "recengine" / "bench-real-models"

FILES = {
    "ml-100k": DATA / "restricted/ml-100k/u.data.gz",
    "ml-latest-small": DATA / "ml-latest-small/ratings.csv.gz",
}
# iALS: the penalty that bench/collaborative chose on the validation data of ml-100k. SASRec: a fixed number
# of epochs, the best of them picked by validation NDCG@10. Everything else is the default.
SETTINGS: dict[str, dict[str, Any]] = {
    "popularity": {},
    "ease": {},
    "ials": {"model.regularization": 20.0},
    "bpr": {},
    "sasrec": {"training.epochs": 50, "training.patience": 0},
}
DETERMINISTIC = ("popularity", "ease")
SEEDS = 10


def cells(models: tuple[str, ...] = tuple(SETTINGS), seeds: int = SEEDS) -> list[tuple[str, str, int]]:
    """(data, model, seed), the quick models first."""
    return [
        (data, model, seed)
        for model in models
        for seed in range(1 if model in DETERMINISTIC else seeds)
        for data in FILES
    ]


def folder(store: Path, data: str, model: str, seed: int) -> Path:
    return store / data / f"{model}-seed{seed}"


def evaluated(store: Path, data: str, model: str, seed: int) -> bool:
    """exposure.parquet is written before evaluation.json: with the latter, all is there."""
    return (folder(store, data, model, seed) / "evaluation.json").is_file()


def evaluation(store: Path, data: str, model: str, seed: int) -> Evaluation:
    return Evaluation.read(folder(store, data, model, seed))


def complete(store: Path, asked: list[tuple[str, str, int]]) -> None:
    """Fit and evaluate what is missing."""
    read_once: dict[str, Interactions] = {}
    for at, (data, model, seed) in enumerate(asked, start=1):
        if evaluated(store, data, model, seed):
            continue
        if data not in read_once:
            read_once[data] = read(FILES[data])
        began = time.perf_counter()
        found = fit(model, read_once[data], settings=SETTINGS[model], seed=seed).evaluate()
        found.write(folder(store, data, model, seed))
        told = f"{at}/{len(asked)} {data} {model} seed {seed}: ndcg@10 {found['ndcg@10']:.4f}"
        print(f"{told}, {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, default=STORE, help="where the evaluations are kept")
    complete(parser.parse_args().store, cells())
