"""Worker processes that know what this process knows: its plugin files, its share of the cores."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """``workers`` fresh processes (spawned: torch's threads do not survive a fork)."""
    from recengine.hooks import host

    files = tuple(path.resolve() for path in host().files)
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(workers, files)
    )


def _begin(workers: int, files: tuple[Path, ...]) -> None:
    import torch

    from recengine.hooks import host

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    for path in files:
        host().add_file(path)
