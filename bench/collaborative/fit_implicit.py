"""Fits a model of implicit for bench_classic.py; run by peers.runner inside implicit's environment."""

from __future__ import annotations

import os
from itertools import product

threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # implicit asks for it: its own threads call BLAS

import harness  # noqa: E402
import numpy as np  # noqa: E402
from implicit.cpu.als import AlternatingLeastSquares  # noqa: E402
from implicit.cpu.bpr import BayesianPersonalizedRanking  # noqa: E402
from scipy.sparse import csr_matrix  # noqa: E402

MODELS = {"ials": AlternatingLeastSquares, "bpr": BayesianPersonalizedRanking}


def main(given: dict) -> dict:
    """given: model, points (settings), users, items (.npy), n_users, n_items, seeds, out (folder)."""
    users, items = np.load(given["users"]), np.load(given["items"])
    times = []
    for point, seed in product(range(len(given["points"])), given["seeds"]):
        settings = given["points"][point]
        with harness.stopwatch() as watch:
            ones = np.ones(len(users), np.float32)
            matrix = csr_matrix((ones, (users, items)), (given["n_users"], given["n_items"]))
            model = MODELS[given["model"]](num_threads=threads, random_state=seed, **settings)
            model.fit(matrix, show_progress=False)
        times.append(watch.as_dict())
        np.save(f"{given['out']}/{point}-{seed}.users.npy", model.user_factors)
        np.save(f"{given['out']}/{point}-{seed}.items.npy", model.item_factors)
    return {"times": times}
