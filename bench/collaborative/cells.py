"""One fit of a study of losses, in a folder of its own: started again it goes on where it stopped.

A trial is fitted without the validation items and measured on them alone; a final run is fitted on the whole
training part that the data came with, for the same number of epochs, and measured on the test part. Every
fit runs its whole course of learning rates (cosine, to zero), so no epoch is picked by a metric.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shifted import validation_folder

import recengine
from recengine import data

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
SHARED = ROOT.parent / "shared" / "data"
DATA = {
    "beauty": "irbench/iid/amazon2014-beauty",
    "electronic": "irbench/iid/amazon2014-electronic",
    "electronic-shift": "irbench/ood/amazon2014-electronic-popularity",
    "cd": "irbench/iid/amazon2014-cd",
    "cd-shift": "irbench/ood/amazon2014-cd-popularity",
    "douban-book": "irbench/iid/douban-book",
    "gowalla": "irbench/iid/gowalla",
    "gowalla-shift": "irbench/ood/gowalla-popularity",
    "gowalla-lightgcn": "cf/gowalla",
}


@dataclass(frozen=True)
class Cell:
    """final: fitted on the whole training part and measured on the test part; else a trial."""

    name: str
    data: str
    loss: dict[str, Any]
    epochs: int
    final: bool
    model: str = "mf"
    extra: dict[str, Any] = field(default_factory=dict)
    rate: float = 3e-2
    spread: float = 0.1
    batch: int = 1024
    schedule: str = "cosine"
    seed: int = 0
    decay: float = 0.0

    def settings(self) -> dict[str, Any]:
        return {
            "model": {"factors": 64, "init_std": self.spread, **self.extra},
            "loss": self.loss,
            "split": {"strategy": "given" if self.final else "given_validated"},
            "training": {
                "epochs": self.epochs,
                "batch_size": self.batch,
                "learning_rate": self.rate,
                "weight_decay": self.decay,
                "schedule": self.schedule,
                "monitor": "ndcg@20",
                "evaluate_every": self.epochs,
                "patience": 0,
                "checkpoint_every": 5,
                "device": "cpu",
            },
            "evaluation": {"metrics": ["recall", "ndcg"], "cutoffs": [20]},
        }


@dataclass(frozen=True)
class Outcome:
    """What a cell gave. n_users: all users of the data set; values: NDCG@20 of the users asked (final)."""

    cell: dict[str, Any]
    n_users: int
    asked: int
    validation: float | None
    recall: float | None
    ndcg: float | None
    deciles: dict[str, float]
    seconds_an_epoch: float
    seconds: float
    values: NDArray[np.float64] | None = None

    def over_all_users(self, value: float) -> float:
        """The mean that counts users without a test item as zero, as IR-Benchmark takes it."""
        return value * self.asked / self.n_users


def source(name: str, store: Path) -> Path:
    """Where a data set is; NAME-validation: NAME's training part, divided as its test part was drawn."""
    whole = name.removesuffix("-validation")
    given = SHARED / DATA[whole]
    return given if name == whole else validation_folder(given, store / "data" / name)


def outcome(cell: Cell, store: Path) -> Outcome | None:
    """What is in the store, None where the cell has not been run."""
    place = store / f"{cell.name}.json"
    if not place.is_file():
        return None
    found = json.loads(place.read_text())
    if Cell(**found["cell"]) != cell:
        raise SystemExit(f"{place} was run with other settings: choose another --store")
    values = store / f"{cell.name}.npy"
    return Outcome(**found, values=np.load(values) if values.is_file() else None)


def run(cell: Cell, store: Path, epochs: int | None = None) -> Outcome:
    """Fit (or go on fitting) and measure; what was found before is taken from the store."""
    store.mkdir(parents=True, exist_ok=True)
    known = outcome(cell, store) if epochs is None else None
    if known is not None:
        return known
    from recengine.evaluation.slices import by_target_popularity

    began = time.perf_counter()
    folder = store / f"{cell.name}.run"
    settings = cell.settings()
    if epochs is not None:
        settings["training"].update(epochs=epochs, evaluate_every=epochs)
    shutil.rmtree(folder, ignore_errors=True) if (folder / "run.json").is_file() else None
    events = data.read(source(cell.data, store))
    fitted = recengine.fit(
        cell.model, events, settings=settings, directory=folder, seed=cell.seed, resume=True
    )
    validation = next((entry["ndcg@20"] for entry in reversed(fitted.history) if "ndcg@20" in entry), None)
    recall = ndcg = values = None
    deciles: dict[str, float] = {}
    asked = 0
    if cell.final:
        found = fitted.evaluate()
        values = np.asarray(found.values("ndcg@20"), np.float64)
        recall, ndcg = float(np.mean(found.values("recall@20"))), float(values.mean())
        deciles = {name: one.mean for name, one in by_target_popularity(found, "ndcg@20").items()}
        asked = len(values)
    made = Outcome(
        cell=asdict(cell),
        n_users=events.n_users,
        asked=asked,
        validation=validation,
        recall=recall,
        ndcg=ndcg,
        deciles=deciles,
        seconds_an_epoch=round(sum(e["seconds"] for e in fitted.history) / len(fitted.history), 2),
        seconds=round(time.perf_counter() - began, 1),
        values=values,
    )
    if epochs is None:
        keep(made, cell, store)
        shutil.rmtree(folder, ignore_errors=True)
    return made


def keep(made: Outcome, cell: Cell, store: Path) -> None:
    record = {name: value for name, value in vars(made).items() if name != "values"}
    if made.values is not None:
        np.save(store / f"{cell.name}.npy", made.values)
    unfinished = store / f"{cell.name}.unfinished"
    unfinished.write_text(json.dumps(record))
    unfinished.rename(store / f"{cell.name}.json")
