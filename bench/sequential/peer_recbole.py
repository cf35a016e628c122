"""SASRec and BERT4Rec of RecBole on arrays: runs in RecBole's own environment.

RecBole makes a training sequence of every prefix of a user's events and learns from the last event of each
(SASRec) or from hidden events of each (BERT4Rec); an epoch is one pass over all of them.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import recbole
import torch
from harness import stopwatch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataloader.general_dataloader import TrainDataLoader
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer
from recbole.utils import get_model, init_seed

MODELS = {"sasrec": "SASRec", "bert4rec": "BERT4Rec"}


def main(given: dict[str, Any]) -> dict[str, Any]:
    """Fit on the training rows, recommend ten unseen items to everybody, write them to ``given['lists']``."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(given.get("threads", 1))
    rows = np.load(given["train"])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "rows")
        folder.mkdir()
        os.chdir(place)  # its logs go where it stands
        lines = ["user_id:token\titem_id:token\ttimestamp:float"]
        lines += ["\t".join(map(str, row)) for row in rows.tolist()]
        (folder / "rows.inter").write_text("\n".join(lines) + "\n")
        config = Config(
            model=MODELS[given.get("model", "sasrec")],
            dataset="rows",
            config_dict={
                "data_path": place,
                "checkpoint_dir": place,
                "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
                "MAX_ITEM_LIST_LENGTH": 50,
                "n_layers": 2,
                "n_heads": 2,
                "hidden_size": 64,
                "inner_size": 256,
                "loss_type": "CE",
                "train_neg_sample_args": None,
                "train_batch_size": 128,
                "epochs": given["epochs"],
                "eval_args": {"split": {"RS": [1.0, 0.0, 0.0]}, "order": "TO", "group_by": "user"},
                "use_gpu": False,
                "show_progress": False,
                "seed": given["seed"],
            },
        )
        init_seed(given["seed"], True)
        with stopwatch() as watch:
            dataset = create_dataset(config)
            train = TrainDataLoader(config, dataset.build()[0], None, shuffle=True)
            model = get_model(config["model"])(config, train.dataset)
            Trainer(config, model).fit(train, None, verbose=False, saved=False)
        with stopwatch() as asking:
            if given.get("ask", True):
                np.save(Path(given["lists"]), recommend(model, dataset, rows))
    return {
        "fit": watch.as_dict(),
        "recommend": asking.as_dict(),
        "versions": {"recbole": recbole.__version__, "torch": torch.__version__},
    }


@torch.no_grad()
def recommend(model: Any, dataset: Any, rows: np.ndarray) -> np.ndarray:
    """(user, rank from 1, item) of ten unseen items for everybody."""
    model.eval()
    names = dataset.field2id_token["item_id"]
    own = {name: at for at, name in enumerate(names)}
    found = []
    for user in np.unique(rows[:, 0]).tolist():
        seen = [own[str(item)] for item in rows[rows[:, 0] == user][:, 1].tolist()]
        last = seen[-50:]
        given = Interaction(
            {
                "item_id_list": torch.tensor([last + [0] * (50 - len(last))]),
                "item_length": torch.tensor([len(last)]),
            }
        )
        scores = model.full_sort_predict(given).flatten()
        scores[0] = -torch.inf
        scores[seen] = -torch.inf
        found += [
            (user, rank + 1, int(names[at])) for rank, at in enumerate(scores.topk(10).indices.tolist())
        ]
    return np.asarray(found)
