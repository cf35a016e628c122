"""SASRec and BERT4Rec of RecTools on arrays: runs in RecTools' own environment."""

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
from rectools.models import BERT4RecModel, SASRecModel

MODELS = {"sasrec": SASRecModel, "bert4rec": BERT4RecModel}


def main(given: dict[str, Any]) -> dict[str, Any]:
    """Fit on the training rows, recommend ten unseen items to everybody, write them to ``given['lists']``."""
    torch.set_num_threads(given.get("threads", 1))
    rows = np.load(given["train"])
    frame = pd.DataFrame({"user_id": rows[:, 0], "item_id": rows[:, 1], "weight": 1.0})
    frame["datetime"] = pd.to_datetime(rows[:, 2], unit="s")
    pytorch_lightning.seed_everything(given["seed"])
    model = MODELS[given.get("model", "sasrec")](
        n_factors=64, n_blocks=2, session_max_len=50, batch_size=128, epochs=given["epochs"], loss="softmax"
    )
    with stopwatch() as watch:
        dataset = Dataset.construct(frame)
        model.fit(dataset)
    found = None
    with stopwatch() as asking:
        if given.get("ask", True):
            found = model.recommend(frame["user_id"].unique(), dataset, k=10, filter_viewed=True)
    if found is not None:
        np.save(Path(given["lists"]), found[["user_id", "rank", "item_id"]].to_numpy())
    return {
        "fit": watch.as_dict(),
        "recommend": asking.as_dict(),
        "versions": {"rectools": rectools.__version__, "torch": torch.__version__},
    }
