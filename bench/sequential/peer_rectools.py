"""SASRec of RecTools on arrays: runs in RecTools' own environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning
import rectools
import torch
from harness import stopwatch
from rectools.dataset import Dataset
from rectools.models import SASRecModel


def main(given: dict[str, Any]) -> dict[str, Any]:
    """Fit on the training rows, recommend ten unseen items to everybody, write them to ``given['lists']``."""
    rows = np.load(given["train"])
    frame = pd.DataFrame({"user_id": rows[:, 0], "item_id": rows[:, 1], "weight": 1.0})
    frame["datetime"] = pd.to_datetime(rows[:, 2], unit="s")
    pytorch_lightning.seed_everything(given["seed"])
    model = SASRecModel(
        n_factors=64, n_blocks=2, session_max_len=50, batch_size=128, epochs=given["epochs"], loss="softmax"
    )
    with stopwatch() as watch:
        dataset = Dataset.construct(frame)
        model.fit(dataset)
    with stopwatch() as asking:
        found = model.recommend(frame["user_id"].unique(), dataset, k=10, filter_viewed=True)
    np.save(Path(given["lists"]), found[["user_id", "rank", "item_id"]].to_numpy())
    return {
        "fit": watch.as_dict(),
        "recommend": asking.as_dict(),
        "versions": {"rectools": rectools.__version__, "torch": torch.__version__},
    }
