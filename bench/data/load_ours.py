"""Load and split with recengine; run by bench_load.py in a process of its own."""

from __future__ import annotations

import harness


def main(given: dict) -> dict:
    """Seconds of reading and splitting, and what came out."""
    from recengine.data import SplitConfig, read, split

    with harness.stopwatch() as reading:
        interactions = read(given["path"])
    with harness.stopwatch() as splitting:
        parts = split(interactions, SplitConfig(strategy="leave_two_out", repeats="keep"))
    return {
        "read": reading.as_dict(),
        "split": splitting.as_dict(),
        "events": len(interactions),
        "users": interactions.n_users,
        "items": interactions.n_items,
        "train_events": len(parts.train),
    }
