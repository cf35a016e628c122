"""What the study of losses runs: data sets, how they are fitted, the six trials of a loss, what they chose.

On a shifted set the trials are fitted without a tenth of the training part, held back by drawing items as the
test part was drawn, and measured on that tenth; elsewhere on a tenth of every user's training items.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cell, outcome
from searches import score


@dataclass(frozen=True)
class Course:
    """How a model is fitted to a data set (a name in cells.DATA). claim: what follows "collaborative.dsl-r-"
    in its claim's name; temperatures: of SL's trials (PSL's are half of them); weights: on the sampled side,
    tried at three of the temperatures; reject: sampled items that the row's user was trained on do not count;
    seeds: how many its claims stand on.
    """

    title: str
    claim: str
    data: str
    trial_epochs: int = 6
    epochs: int = 15
    negatives: int = 1000
    model: str = "mf"
    batch: int = 1024
    temperatures: tuple[float, ...] = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
    weights: tuple[float, float] = (1.1, 1.25)
    reject: bool = False
    seeds: int = 3

    @property
    def shifted(self) -> bool:
        return self.data.endswith("-shift")

    @property
    def many(self) -> dict[str, Any]:
        """What losses with sampled items have in common."""
        shared = {"negatives": self.negatives, "shared": True}
        return {**shared, "reject": True} if self.reject else shared

    @property
    def more(self) -> dict[str, Any]:
        """What its cells have beside the loss."""
        return {"model": self.model, "batch": self.batch}


_SETS = {
    "beauty": "Amazon Beauty",
    "electronic": "Amazon Electronics",
    "cd": "Amazon CD",
    "douban-book": "douban-book",
    "gowalla": "Gowalla",
}
_SMALL: dict[str, Any] = {"trial_epochs": 40, "epochs": 40, "negatives": 512}
_COLD = (0.05, 0.075, 0.1, 0.15, 0.2, 0.3)
_LARGE: dict[str, dict[str, Any]] = {
    "gowalla": {"batch": 4096, "temperatures": _COLD, "seeds": 1},
    "douban-book": {"batch": 4096, "temperatures": _COLD, "seeds": 1},
}
# What suits a shifted set is colder, and a weight above one helps popular items, which are rare there.
_SHIFTED: dict[str, Any] = {
    "epochs": 20,
    "temperatures": _COLD,
    "weights": (0.9, 1.1),
    "reject": True,
    "seeds": 1,
}


def _courses() -> dict[str, Course]:
    made = {}
    for data, title in _SETS.items():
        small = _SMALL if data == "beauty" else {}
        made[data] = Course(title, f"mf-{data}", data, **{**small, **_LARGE.get(data, {})})
        graph = {"batch": 1024 if small else 8192, "model": "lightgcn", **small}
        graph["seeds"] = _LARGE.get(data, {}).get("seeds", 3)
        made[f"{data}-lightgcn"] = Course(f"{title}, LightGCN", f"lightgcn-{data}", data, **graph)
    for data in ("cd", "electronic", "gowalla"):
        title = f"{_SETS[data]} under popularity shift"
        shifted = f"{data}-shift"
        made[shifted] = Course(title, f"shift-{data}", shifted, **{**_SHIFTED, **_LARGE.get(data, {})})
    return made


COURSES = _courses()
LOSSES = ("bpr", "bsl", "psl", "sl", "sl_at_k", "dsl_r", "dsl_w", "dsl_v", "dsl_k")
OURS = ("dsl_r", "dsl_w", "dsl_v", "dsl_k")
ABLATIONS = ("dsl_r-weights", "dsl_r-temperatures", "dsl_r-sign")
Setting = tuple[dict[str, Any], dict[str, Any]]  # of the loss; of the cell


def nearest(data: str, store: Path) -> list[float]:
    """Where weights are tried: the temperature that SL's trials found and the two below it, or the lowest
    three."""
    tried, best = COURSES[data].temperatures, chosen("sl", data, store)[0]["temperature"]
    last = max(3, tried.index(best) + 1)
    return list(tried[last - 3 : last])


def settings_of(loss: str, data: str, store: Path) -> list[Setting]:
    """The six trials of a loss."""
    course = COURSES[data]
    many = course.many
    if loss == "bpr":
        pair = {"name": "bpr", "negatives": 1, "shared": False}
        grid = [(rate, decay) for rate in (3e-3, 1e-2) for decay in (1e-6, 1e-5, 3e-5)]
        return [(pair, {"rate": rate, "spread": 0.01, "decay": decay}) for rate, decay in grid]
    if loss == "sl":
        return [({"name": "sl", **many, "temperature": t}, {}) for t in course.temperatures]
    if loss == "psl":
        psl = {"name": "psl", **many, "activation": "tanh"}
        return [({**psl, "temperature": round(t / 2, 4)}, {}) for t in course.temperatures]
    if loss == "bsl":
        bsl = {"name": "bsl", **many, "form": "grouped"}
        grid = [(t, weight) for t in nearest(data, store) for weight in course.weights]
        return [({**bsl, "temperature": t, "negative_weight": weight}, {}) for t, weight in grid]
    temperature = chosen("sl", data, store)[0]["temperature"]
    if loss == "sl_at_k":
        top = {"name": "sl_at_k", **many, "temperature": temperature, "k": 20, "refresh": 2}
        return [({**top, "weight_temperature": w}, {}) for w in (0.5, 0.75, 1.0, 1.5, 2.25, 3.0)]
    dsl = {"name": "dsl_r", **many, "temperature": temperature, "warmup": 1, "ramp": 1}
    if loss == "dsl_k":
        grid = [(gamma, reach) for gamma in (-0.5, -1.0) for reach in (1.5, 2.25, 3.0)]
        return [({**dsl, "kappa": 1.0, "gamma": g, "reach_temperature": reach}, {}) for g, reach in grid]
    if loss == "dsl_w":
        grid = [(gamma, weight) for gamma in (0.5, -0.5) for weight in (1.1, 1.25, 1.5)]
        return [({**dsl, "kappa": 1.0, "gamma": g, "negative_weight": w}, {}) for g, w in grid]
    if loss == "dsl_v":
        grid = [(t, weight) for t in nearest(data, store) for weight in course.weights]
        dsl |= {"kappa": 1.0, "gamma": -1.0}
        return [({**dsl, "temperature": t, "negative_weight": w}, {}) for t, w in grid]
    grid = [(1.0, 1.0), (1.0, -1.0), (1.0, 0.5), (1.0, -0.5), (4.0, 0.5), (4.0, -0.5)]
    return [({**dsl, "kappa": kappa, "gamma": gamma}, {}) for kappa, gamma in grid]


def trials(loss: str, data: str, store: Path) -> list[Cell]:
    course = COURSES[data]
    return [
        Cell(
            f"{data}-trial-{loss}-{i}",
            f"{course.data}-validation" if course.shifted else course.data,
            setting,
            course.trial_epochs,
            final=course.shifted,
            **course.more,
            **more,
        )
        for i, (setting, more) in enumerate(settings_of(loss, data, store))
    ]


def chosen(loss: str, data: str, store: Path) -> Setting:
    """The setting with the best validation NDCG@20; SystemExit where trials are missing."""
    found = [outcome(cell, store) for cell in trials(loss, data, store)]
    scores = [score(one) for one in found if one is not None]
    if len(scores) < len(found):
        sys.exit(f"run --trials {data} {loss} first")
    return settings_of(loss, data, store)[int(np.argmax(scores))]


def final(system: str, data: str, seed: int, store: Path) -> Cell:
    """A loss, or an ablation of DSL-R, with its chosen setting."""
    loss, _, part = system.partition("-")
    setting, more = chosen(loss, data, store)
    change: dict[str, Any] = {
        "": {},
        "weights": {"gamma": 0.0},
        "temperatures": {"kappa": 0.0},
        "sign": {"gamma": -float(setting.get("gamma", 0.0))},
    }[part]
    course = COURSES[data]
    return Cell(
        f"{data}-{system}-s{seed}",
        course.data,
        {**setting, **change},
        course.epochs,
        final=True,
        seed=seed,
        **course.more,
        **more,
    )
