"""A new order inside ties, for each epoch: what the data does not order, a model should not learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recengine.data.interactions import Interactions
from recengine.data.ordering import reorder_ties, tie_hash, tie_mask


def reshuffle_ties(interactions: Interactions, epoch: int, seed: int) -> Interactions:
    """The same events with every run of equal (user, time) in a fresh order, a function of the event,
    ``epoch`` and ``seed`` alone. Without times a whole history is one tie. Where rows were vouched for
    (ties == 'rows') nothing is tied and nothing changes."""
    if interactions.ties == "rows":
        return interactions
    order = np.arange(len(interactions), dtype=np.int64)
    mixed = int(tie_hash(np.array([epoch], np.int64), seed)[0])
    reorder_ties(order, tie_mask(interactions.user, interactions.time), mixed, interactions.source)
    return replace(
        interactions,
        item=interactions.item[order],
        weight=None if interactions.weight is None else interactions.weight[order],
        source=interactions.source[order],
        part=None if interactions.part is None else interactions.part[order],
    )
