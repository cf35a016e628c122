"""Optimisers and learning-rate courses by name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from recengine.training.adam import Adam
from recengine.training.config import TrainerConfig
from recengine.training.row_optimizers import RowOptimizer, Together


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter], config: TrainerConfig, processes: int = 1
) -> torch.optim.Optimizer | Adam:
    """The optimiser of ``config``; fused (one pass over memory a tensor) where torch has it. A parameter with
    an attribute ``decays`` that is False is left alone by weight decay.

    Where ``config`` has a rule for tables (ClickTrainerConfig), parameters with an attribute ``rows`` follow
    it, and are told by ``sparse_gradient`` to give the rows of a batch alone (in one process, unclipped).
    """
    rule = getattr(config, "table_optimizer", "same")
    everything = list(parameters)
    tables = [p for p in everything if rule != "same" and getattr(p, "rows", False) and p.requires_grad]
    groups = _groups([p for p in everything if not any(p is table for table in tables)])
    alone = processes == 1 and config.precision == "32-true" and not tables
    if alone and config.optimizer in ("adam", "adamw") and all(_plain(p) for p in everything):
        decoupled = config.optimizer == "adamw"
        return Adam(groups, config.learning_rate, weight_decay=config.weight_decay, decoupled=decoupled)
    dense = _torch_optimizer(groups, config)
    if not tables:
        return dense
    for table in tables:
        table.sparse_gradient = processes == 1 and config.clip_norm == 0  # type: ignore[attr-defined]
    scale = config.table_learning_rate / config.learning_rate  # type: ignore[attr-defined]
    return Together([dense, RowOptimizer(tables, rule, config.learning_rate, scale)])


def _plain(parameter: torch.nn.Parameter) -> bool:
    return parameter.device.type == "cpu" and parameter.is_floating_point()


def _groups(parameters: Iterable[torch.nn.Parameter]) -> list[dict[str, Any]]:
    """What learns, in a group that weight decay takes and one that it spares."""
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    decaying = [parameter for parameter in wanted if getattr(parameter, "decays", True)]
    spared = [parameter for parameter in wanted if not getattr(parameter, "decays", True)]
    groups: list[dict[str, Any]] = [{"params": decaying}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0})
    return groups


def _torch_optimizer(groups: list[dict[str, Any]], config: TrainerConfig) -> torch.optim.Optimizer:
    kinds: dict[str, Any] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "adagrad": torch.optim.Adagrad,
        "sgd": torch.optim.SGD,
    }
    made: torch.optim.Optimizer = kinds[config.optimizer](
        groups,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=all(p.is_floating_point() for group in groups for p in group["params"]),
    )
    return made


def rate(config: TrainerConfig, step: int, steps: int) -> float:
    """Learning rate of step ``step`` (from 0) of ``steps``.

    Rises as (step + 1) / w over the first w = warmup * steps steps, then stays ('constant'), falls as
    1 - p ('linear') or as (1 + cos(pi p)) / 2 ('cosine'), p = share done of what follows the warm-up.
    """
    warm = round(config.warmup * steps)
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    fall = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
    return config.learning_rate * fall[config.schedule]
