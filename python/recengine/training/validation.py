"""The validation task, measured by all processes together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from recengine.contracts.batch import HistoryBatch
from recengine.data import EvalTask
from recengine.training.config import EvaluationConfig


def share(task: EvalTask, rank: int, world: int) -> EvalTask:
    """Every world-th user of the task, from ``rank`` on."""
    if world == 1:
        return task
    mine = np.arange(rank, task.users.shape[0], world)
    lengths = np.diff(task.indptr)[mine]
    starts = task.indptr[mine]
    rows = np.concatenate(
        [np.arange(a, a + n) for a, n in zip(starts, lengths, strict=True)] or [np.empty(0, np.int64)]
    ).astype(np.int64)
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return EvalTask(task.name, task.users[mine], indptr, task.targets[rows], task.history)


def per_user(network: Any, task: EvalTask, config: EvaluationConfig) -> dict[str, np.ndarray]:
    """Values of each metric, one a user of the task."""
    users = task.users
    values = np.zeros(users.shape[0])
    with torch.inference_mode():
        table = network.item_vectors()
        for low in range(0, users.shape[0], 1024):
            block = users[low : low + 1024]
            batch = HistoryBatch(**task.history.history(block).tensors())
            scores = network.user_vectors(batch) @ table.T
            for i, user in enumerate(block):
                seen = task.history.item[task.history.indptr[user] : task.history.indptr[user + 1]]
                scores[i, torch.from_numpy(seen.astype(np.int64))] = -torch.inf
            top = torch.topk(scores, 10).indices.numpy()
            for i in range(block.shape[0]):
                wanted = task.targets[task.indptr[low + i] : task.indptr[low + i + 1]]
                gains = np.isin(top[i], wanted) / np.log2(np.arange(2, 12))
                ideal = (1 / np.log2(np.arange(2, 2 + min(10, wanted.size)))).sum()
                values[low + i] = gains.sum() / ideal if wanted.size else np.nan
    return {"ndcg@10": values}


def measure(
    network: torch.nn.Module, task: EvalTask, config: EvaluationConfig, fabric: Fabric
) -> dict[str, float]:
    """Mean over all users of each metric. Each process answers for its share of the users; sums and counts
    are added up over processes, so the result is the mean over users whatever their number."""
    network.eval()
    mine = per_user(network, share(task, fabric.global_rank, fabric.world_size), config)
    names = sorted(mine)
    parts = torch.tensor(
        [[np.nansum(mine[name]), np.isfinite(mine[name]).sum()] for name in names], dtype=torch.float64
    )
    total: Any = fabric.all_reduce(parts, reduce_op="sum") if fabric.world_size > 1 else parts
    network.train()
    return {name: float(total[i, 0] / total[i, 1]) for i, name in enumerate(names)}
