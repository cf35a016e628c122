"""Optimisers and learning-rate courses by name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from recengine.training.config import TrainerConfig


def make_optimizer(parameters: Iterable[torch.nn.Parameter], config: TrainerConfig) -> torch.optim.Optimizer:
    """The optimiser of ``config``; fused (one pass over memory a tensor) where torch has it. A parameter with
    an attribute ``decays`` that is False is left alone by weight decay."""
    kinds: dict[str, Any] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "adagrad": torch.optim.Adagrad,
        "sgd": torch.optim.SGD,
    }
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    decaying = [parameter for parameter in wanted if getattr(parameter, "decays", True)]
    spared = [parameter for parameter in wanted if not getattr(parameter, "decays", True)]
    groups: list[dict[str, Any]] = [{"params": decaying}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0})
    made: torch.optim.Optimizer = kinds[config.optimizer](
        groups,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=all(parameter.is_floating_point() for parameter in wanted),
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
