"""Validation under the shift of the test part: drawn from the training part as the test part was drawn.

IR-Benchmark draws the test part of its popularity-shifted sets by item: an item uniformly, then one of its
remaining users uniformly, until a fifth is held; no item is emptied. ``hold_back`` does the same once more
to the training part alone, so that settings can be chosen for a shifted test without a look at it. No user is
emptied either.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pairs = NDArray[np.int64]  # [n, 2]: user, item


def hold_back(pairs: Pairs, share: float, seed: int) -> NDArray[np.bool_]:
    """[n] True where a pair is held back: ``share`` of them, or fewer where no pair is left to take."""
    generator = np.random.default_rng(seed)
    items, users = (np.unique(pairs[:, column], return_inverse=True)[1] for column in (1, 0))
    shuffled = generator.permutation(len(pairs))
    order = shuffled[np.argsort(items[shuffled], kind="stable")]  # every item's pairs in a random order
    ends = np.cumsum(np.bincount(items))
    left, of_user = np.bincount(items), np.bincount(users)
    held = np.zeros(len(pairs), bool)
    open_items = list(np.flatnonzero(left > 1))
    wanted = int(share * len(pairs))
    while wanted and open_items:
        place = int(generator.integers(len(open_items)))
        item = open_items[place]
        pair = order[ends[item] - left[item]]
        left[item] -= 1
        if of_user[users[pair]] > 1:
            of_user[users[pair]] -= 1
            held[pair] = True
            wanted -= 1
        if left[item] == 1:
            open_items[place] = open_items[-1]
            open_items.pop()
    return held


def validation_folder(source: Path, target: Path, share: float = 0.1, seed: int = 0) -> Path:
    """``target`` as an IR-Benchmark folder whose test part is held back from ``source``'s training part."""
    if (target / "test.tsv").is_file():
        return target
    with gzip.open(source / "train.tsv.gz", "rt") as lines:
        head = next(lines)
        pairs = np.array([line.split()[:2] for line in lines], np.int64)
    held = hold_back(pairs, share, seed)
    target.mkdir(parents=True, exist_ok=True)
    for name, chosen in (("train", ~held), ("test", held)):
        unfinished = target / f"{name}.unfinished"
        with unfinished.open("w") as out:
            out.write(head)
            out.writelines(f"{user}\t{item}\n" for user, item in pairs[chosen])
        unfinished.rename(target / f"{name}.tsv")
    return target
