"""dice-ml 0.12 on given cells; runs under its own interpreter (bench/peers/runner.py).

given: cells = [{file (npz: X, y, theta, people; W1, b1 of a net), probability, method, count}]. Answer:
seconds of each person; points come beside the file as <file>.points.npy, the nearest (L1) of ``count``.
"""

from __future__ import annotations

import contextlib
import io
import time
import warnings

import dice_ml
import numpy as np
import pandas as pd
from raiutils.exceptions import UserConfigValidationException


class Scorer:
    """The model as dice-ml asks for it: rows in, probabilities of both classes out."""

    classes_ = np.array([0, 1])

    def __init__(self, held) -> None:
        self.theta = held["theta"]
        self.hidden = (held["W1"], held["b1"]) if "W1" in held else None

    def predict_proba(self, rows) -> np.ndarray:
        x = np.asarray(rows, dtype=np.float64)
        if self.hidden is not None:
            x = np.maximum(x @ self.hidden[0].T + self.hidden[1], 0.0)
        accepted = 1 / (1 + np.exp(-(x @ self.theta[:-1] + self.theta[-1])))
        return np.c_[1 - accepted, accepted]

    def predict(self, rows) -> np.ndarray:
        return (self.predict_proba(rows)[:, 1] > 0.5).astype(np.int64)


def main(given: dict) -> dict:
    warnings.filterwarnings("ignore")
    return {"cells": [_cell(np.load(cell["file"]), cell) for cell in given["cells"]]}


def _cell(held, cell: dict) -> dict:
    X, people = held["X"], held["people"]
    names = [f"x{j}" for j in range(X.shape[1])]
    frame = pd.DataFrame(X, columns=names).assign(label=held["y"])
    data = dice_ml.Data(dataframe=frame, continuous_features=names, outcome_name="label")
    model = dice_ml.Model(model=Scorer(held), backend="sklearn", model_type="classifier")
    explainer = dice_ml.Dice(data, model, method=cell["method"])
    ranges = {
        name: [float(a), float(b)] for name, a, b in zip(names, X.min(axis=0), X.max(axis=0), strict=True)
    }
    points, seconds = np.full(people.shape, np.nan), []
    options = {"random_seed": 0} if cell["method"] == "random" else {}
    for i, person in enumerate(people):
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                found = (
                    explainer.generate_counterfactuals(
                        pd.DataFrame(person[None], columns=names),
                        total_CFs=cell["count"],
                        desired_class=1,
                        permitted_range=ranges,
                        stopping_threshold=cell["probability"],
                        **options,
                    )
                    .cf_examples_list[0]
                    .final_cfs_df
                )
            except UserConfigValidationException:  # what it says when it found none
                found = None
        seconds.append(time.perf_counter() - began)
        if found is not None and len(found):
            x = found[names].to_numpy(dtype=np.float64)
            points[i] = x[np.abs(x - person).sum(axis=1).argmin()]
    np.save(cell["file"] + ".points.npy", points)
    return {"seconds": seconds}
