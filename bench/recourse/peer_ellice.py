"""The library ellice 0.1.4 on given cells; runs under its own interpreter (bench/peers/runner.py).

given: cells = [{file (npz: X, y, theta, people; W1, b1 of a net), eps, l2, tag}]. Answer: seconds of each
person, setup seconds; points are written beside the file as <file>.points<tag>.npy.
"""

from __future__ import annotations

import contextlib
import io
import time

import numpy as np
import pandas as pd
import torch
from ellice.data import Data
from ellice.generators.continuous import ContinuousGenerator
from ellice.models import load_model


def main(given: dict) -> dict:
    torch.manual_seed(0)
    torch.set_num_threads(given["threads"])
    answers = []
    for cell in given["cells"]:
        held = np.load(cell["file"])
        answers.append(_cell(held, cell, given.get("warm", 2)))
    return {"cells": answers}


def _set(layer: torch.nn.Linear, weight, bias) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))


def _cell(held, cell: dict, warm: int) -> dict:
    X, theta, people = held["X"], held["theta"], held["people"]
    names = [f"x{j}" for j in range(X.shape[1])]
    frame = pd.DataFrame(X, columns=names).assign(label=held["y"])
    data = Data(frame, "label", continuous_features=names, categorical_features=[])
    last = torch.nn.Linear(len(theta) - 1, 1)
    _set(last, theta[None, :-1], theta[-1:])
    model = torch.nn.Sequential(last)
    if "W1" in held:
        first = torch.nn.Linear(X.shape[1], len(theta) - 1)
        _set(first, held["W1"], held["b1"])
        model = torch.nn.Sequential(first, torch.nn.ReLU(), last)
    began = time.perf_counter()
    generator = ContinuousGenerator(
        load_model(model), data, eps=cell["eps"], reg_coef=cell["l2"], device="cpu"
    )
    setup = time.perf_counter() - began
    points, seconds = np.full(people.shape, np.nan), []
    for i in [*range(min(warm, len(people))), *range(len(people))]:  # the first calls only warm up
        person = pd.Series(people[i], index=names)
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            found = generator.generate(
                person,
                features_to_vary="all",
                requires=cell["requires"],
                progress_bar=False,
                **cell["options"],
            )
        seconds.append(time.perf_counter() - began)
        if not found.empty:
            points[i] = found[names].to_numpy(dtype=np.float64)[0]
    np.save(cell["file"] + f".points{cell.get('tag', '')}.npy", points)
    return {"seconds": seconds[min(warm, len(people)) :], "setup": setup}
