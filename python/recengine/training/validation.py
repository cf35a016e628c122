"""The validation task, measured by all processes together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from recengine.data import EvalTask
from recengine.evaluation import evaluate
from recengine.training.config import EvaluationConfig


def share(task: EvalTask, rank: int, world: int) -> EvalTask:
    """Every world-th user of the task, from ``rank`` on."""
    if world == 1:
        return task
    mine = np.arange(rank, len(task), world)
    lengths = np.diff(task.indptr)
    kept = np.isin(np.repeat(np.arange(len(task)), lengths), mine)
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[mine])])
    times = None if task.times is None else task.times[kept]
    return EvalTask(task.name, task.users[mine], indptr, task.targets[kept], task.history, times)


def measure(
    network: torch.nn.Module, mine: EvalTask, config: EvaluationConfig, fabric: Fabric
) -> dict[str, float]:
    """Mean over the users of all processes of each per-user metric; ``mine`` is this process's share.

    Sums and counts are added up over processes, so the result does not depend on how users were shared out.
    """
    found = evaluate(
        network, mine, metrics=config.metrics or None, cutoffs=config.cutoffs, memory=config.memory
    )
    names = found.metrics
    values = [found.values(name) for name in names]
    sums = [[np.nansum(column), np.isfinite(column).sum()] for column in values]
    parts = torch.tensor(sums, dtype=torch.float64, device=fabric.device)
    total: Any = fabric.all_reduce(parts, reduce_op="sum") if fabric.world_size > 1 else parts
    return {name: float(total[i, 0] / total[i, 1]) for i, name in enumerate(names) if total[i, 1] > 0}
