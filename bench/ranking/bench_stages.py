"""What a second stage does for the recall on ml-100k: EASE retrieves 100, DeepFM orders them, 10 are shown.

    python bench/ranking/bench_stages.py [--seeds 3] [--quick]

Leave-two-out by time, every rating an event; user features age (by ten), gender, occupation; film features
year and genres. The ranker learns from what EASE retrieves for the validation users. Seeds: of the ranker.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import bench_quality as quality
import numpy as np
import polars as pl

FOLDER = Path(os.environ["RECENGINE_DATA"]) / "restricted" / "ml-100k"
SETTINGS = {"model": {"hidden": [64, 64]}}


def main() -> None:
    """Measure, write bench/results/ranking_stages.*, print the figure."""
    import recengine
    from recengine.data import Interactions
    from recengine.serving import PairFeatures, measure_stages, second_stage

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    events, users, items = tables()
    retriever = recengine.fit("ease", Interactions.from_frame(events))
    train = retriever.split.train
    features = PairFeatures.of(train.users, train.items, user_table=users, item_table=items)
    shares: dict[str, list[float]] = {}
    for seed in range(1 if given.quick else given.seeds):
        training = {"epochs": 1} if given.quick else {}
        stages = second_stage(
            retriever, "deepfm", features, settings={**SETTINGS, "training": training}, seed=seed
        )
        for one in measure_stages(stages).summary():
            shares.setdefault(one.metric, []).append(one.mean)
    gain = float(np.mean(shares["after"]) - np.mean(shares["before"]))
    if not given.quick:
        write(shares, str(retriever.split.description))
    print(json.dumps({"claim": "ranking.second-stage-gain", "figure": round(gain, 5)}))


def tables() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Events, features of users, features of films."""
    events = [line.split("\t") for line in lines("u.data.gz")]
    users = [line.split("|") for line in lines("u.user.gz")]
    films = [line.split("|") for line in lines("u.item.gz")]
    return (
        pl.DataFrame({"user": [int(e[0]) for e in events], "item": [int(e[1]) for e in events],
                      "time": [int(e[3]) for e in events]}),
        pl.DataFrame({"user": [int(u[0]) for u in users], "age": [str(int(u[1]) // 10) for u in users],
                      "gender": [u[2] for u in users], "occupation": [u[3] for u in users]}),
        pl.DataFrame({"item": [int(f[0]) for f in films], "year": [f[2][-4:] for f in films],
                      "genres": [[f"g{at}" for at, flag in enumerate(f[5:]) if flag == "1"] for f in films]}),
    )  # fmt: skip


def lines(name: str) -> list[str]:
    """Of a file of the publisher."""
    with gzip.open(FOLDER / name, "rt", encoding="latin-1") as file:
        return file.read().splitlines()


def write(shares: dict[str, list[float]], split: str) -> None:
    """The table of the shares."""
    told: dict[str, Any] = {"processor": quality.processor(), "split": split, "shares": shares}
    (quality.RESULTS / "ranking_stages.json").write_text(json.dumps(told, indent=1) + "\n")
    rows = [
        "# Two stages on ml-100k",
        "",
        str(__doc__).splitlines()[0],
        "",
        f"{quality.processor()}, {time.strftime('%Y-%m-%d', time.gmtime())}; seeds as listed.",
        "`python bench/ranking/bench_stages.py`",
        "",
        "Shares of a user's targets, means over users; mean of the ranker's seeds, and each.",
        "",
        "| share | mean | seeds |",
        "|---|---|---|",
        *(
            f"| {name} | {np.mean(v):.4f} | {', '.join(f'{one:.4f}' for one in v)} |"
            for name, v in shares.items()
        ),
    ]
    (quality.RESULTS / "ranking_stages.md").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
