"""Fits EASE of cornac for bench_classic.py; run by peers.runner inside cornac's environment."""

from __future__ import annotations

from itertools import product

import harness
import numpy as np
from cornac.data import Dataset
from cornac.models import EASE


def main(given: dict) -> dict:
    """given: points (settings), users, items (.npy), n_users, n_items, seeds, out (folder).

    Making cornac's data set is not timed."""
    users, items = np.load(given["users"]), np.load(given["items"])
    data = Dataset.from_uir([(int(u), int(i), 1.0) for u, i in zip(users, items, strict=True)], seed=0)
    times = []
    for point, seed in product(range(len(given["points"])), given["seeds"]):
        settings = given["points"][point]
        model = EASE(lamb=settings["regularization"], posB=settings["nonnegative"], seed=seed, verbose=False)
        with harness.stopwatch() as watch:
            model.fit(data)
        times.append(watch.as_dict())
        weights = np.zeros((given["n_items"], given["n_items"]), np.float32)
        at = np.array(list(data.iid_map))  # our row of each of cornac's items
        weights[np.ix_(at, at)] = model.B
        np.save(f"{given['out']}/{point}-{seed}.weights.npy", weights)
    return {"times": times}
