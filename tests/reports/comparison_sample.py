"""Systems with made-up scores for the pages: a clear winner, a tie, a deterministic one."""

from __future__ import annotations

import numpy as np
import polars as pl

from recengine.evaluation import Evaluation, Protocol
from recengine.evaluation.systems import System

USERS = 300


def evaluation(shift: float, seed: int, *, users: int = USERS) -> Evaluation:
    of_user = np.random.default_rng(0).normal(0.3, 0.1, USERS)[:users]
    rng = np.random.default_rng([seed, int(1000 * shift) % 997])
    scores = of_user + shift + rng.normal(0, 0.002) + rng.normal(0, 0.05, users)
    frame = pl.DataFrame(
        {
            "user": [f"u{i}" for i in range(users)],
            "row": np.arange(users),
            "n_history": np.arange(users) % 30,
            "n_targets": np.ones(users, np.int64),
            "target_decile": np.arange(users) % 10,
            "n_cold": (np.arange(users) % 25 == 0).astype(np.int64),
            "ndcg@10": scores,
            "hr@10": (scores > 0.3).astype(float),
        }
    )
    return Evaluation(Protocol(cutoffs=(10,), data="made up"), frame)


def systems() -> list[System]:
    return [
        System.of("attention <i>", {seed: evaluation(0.03, seed) for seed in range(4)}),
        System.of("graph", {seed: evaluation(0.0, seed) for seed in range(4)}),
        System.of("counting", {0: evaluation(0.001, 0)}, deterministic=True),
    ]
