"""Load and split with RecBole; run by bench_load.py under RecBole's own interpreter."""

import logging
from pathlib import Path

import harness


def main(given):
    """Seconds of reading and splitting, and what came out."""
    from recbole.config import Config
    from recbole.data import create_dataset

    logging.disable(logging.CRITICAL)
    path = Path(given["path"])
    config = Config(
        model="Pop",
        dataset=path.stem,
        config_dict={
            "data_path": str(path.parent.parent),
            "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]},
            "eval_args": {
                "split": {"LS": "valid_and_test"},
                "order": "TO",
                "group_by": "user",
                "mode": "full",
            },
            "use_gpu": False,
            "show_progress": False,
        },
    )
    with harness.stopwatch() as reading:
        dataset = create_dataset(config)
    with harness.stopwatch() as splitting:
        train, _, _ = dataset.build()
    return {
        "read": reading.as_dict(),
        "split": splitting.as_dict(),
        "events": int(dataset.inter_num),
        "users": int(dataset.user_num) - 1,
        "items": int(dataset.item_num) - 1,
        "train_events": int(train.inter_num),
    }
