"""Batches from one device to another."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Moved = TypeVar("Moved")


def to_device(batch: Moved, device: torch.device) -> Moved:
    """The batch with its tensors on ``device``."""
    if device.type == "cpu" or not is_dataclass(batch):
        return batch
    moved = {
        entry.name: _moved(value, device)
        for entry in fields(batch)
        if isinstance(value := getattr(batch, entry.name), Tensor | dict)
    }
    return replace(batch, **moved)  # type: ignore[type-var]


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _moved(one, device) for name, one in value.items()}
    if isinstance(value, tuple):
        return tuple(_moved(one, device) for one in value)
    return value.to(device, non_blocking=True)
