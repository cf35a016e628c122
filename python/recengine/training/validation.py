"""The validation task, measured by all processes together."""

from __future__ import annotations

from typing import Any, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from recengine.contracts.batch import FeatureBatch
from recengine.data import EvalTask
from recengine.data.clicks import ClickTable
from recengine.errors import UsageError
from recengine.evaluation import evaluate
from recengine.evaluation.clicks import click_metrics, predictions
from recengine.training.config import ClickEvaluationConfig, EvaluationConfig, ServingPrecision
from recengine.training.devices import Processes
from recengine.training.moving import to_device


def share(task: EvalTask | ClickTable, rank: int, world: int) -> EvalTask | ClickTable:
    """Every world-th user of the task, from ``rank`` on; of a click table all rows, since an AUC cannot be
    added up."""
    if world == 1 or isinstance(task, ClickTable):
        return task
    mine = np.arange(rank, len(task), world)
    lengths = np.diff(task.indptr)
    kept = np.isin(np.repeat(np.arange(len(task)), lengths), mine)
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[mine])])
    times = None if task.times is None else task.times[kept]
    return EvalTask(task.name, task.users[mine], indptr, task.targets[kept], task.history, times)


def measure(
    network: torch.nn.Module,
    mine: EvalTask | ClickTable,
    config: EvaluationConfig | ClickEvaluationConfig,
    processes: Processes,
) -> dict[str, float]:
    """Mean over the users of all processes of each per-user metric; ``mine`` is this process's share.

    Sums and counts are added up over processes, so the result does not depend on how users were shared out.
    """
    if isinstance(mine, ClickTable):
        return measure_rows(network, mine, cast(ClickEvaluationConfig, config).bins)
    config = cast(EvaluationConfig, config)
    found = evaluate(
        network, mine, metrics=config.metrics or None, cutoffs=config.cutoffs, memory=config.memory
    )
    names = found.metrics
    values = [found.values(name) for name in names]
    sums = [[np.nansum(column), np.isfinite(column).sum()] for column in values]
    parts = torch.tensor(sums, dtype=torch.float64, device=processes.device)
    total: Any = processes.all_reduce(parts, reduce_op="sum") if processes.world_size > 1 else parts
    return {name: float(total[i, 0] / total[i, 1]) for i, name in enumerate(names) if total[i, 1] > 0}


def measure_rows(network: Any, table: ClickTable, bins: int) -> dict[str, float]:
    """Click metrics of the table; those that are not defined for it are left out."""
    return click_metrics(table.labels, probabilities(network, table), table.groups, bins)


def probabilities(
    network: Any, table: ClickTable, rows: int = 8192, *, precision: ServingPrecision = "32-true"
) -> NDArray[np.float64]:
    """float64 [n]: what the model predicts for each row. precision: 'bf16-mixed' multiplies matrices in
    bfloat16 (torch.autocast). Raises UsageError for another one."""
    if precision not in get_args(ServingPrecision):
        raise UsageError(
            "no precision to predict in",
            where="precision",
            found=precision,
            expected=" or ".join(get_args(ServingPrecision)),
        )
    before = network.training
    network.eval()
    device = next(network.parameters()).device
    batches = (to_device(FeatureBatch(**arrays.tensors()), device) for arrays in table.batches(rows))
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        found = predictions(network, batches)
    network.train(before)
    return found
