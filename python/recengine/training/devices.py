"""The device and the processes of a fit."""

from __future__ import annotations

import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from recengine.errors import ConfigError
from recengine.hooks import Host, ask
from recengine.training.config import TrainerConfig


def choose_device(config: TrainerConfig, host: Host) -> torch.device:
    """What ``config.device`` names; for 'auto' the first plugin that answers, else a GPU where there is one.

    Raises ConfigError for a device that is not there.
    """
    name = config.device
    if name == "auto":
        answer = ask(host, "recengine_choose_device", config=config)
        name = answer or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as wrong:
        raise ConfigError(
            "there is no such device", where="training.device", found=name, expected="auto, cpu, cuda, cuda:N"
        ) from wrong
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(
            "the device is not here", where="training.device", found=name, fix="set training.device to 'cpu'"
        )
    return device


class Processes(Protocol):
    """What the loop asks of the processes that fit together: the part of Lightning Fabric that it uses."""

    @property
    def device(self) -> torch.device: ...

    @property
    def world_size(self) -> int: ...

    @property
    def global_rank(self) -> int: ...

    @property
    def is_global_zero(self) -> bool: ...

    def setup(self, module: Any, optimizer: Any) -> Any:
        """(module, optimizer) as the loop is to call them."""
        ...

    def autocast(self) -> AbstractContextManager[Any]:
        """Within it the loss is computed in the precision of the settings."""
        ...

    def backward(self, tensor: Tensor) -> None: ...

    def clip_gradients(self, module: Any, optimizer: Any, *, max_norm: float) -> Any: ...

    def all_reduce(self, data: Any, *, reduce_op: str) -> Any: ...

    def barrier(self) -> None: ...


@dataclass(frozen=True)
class OneProcess:
    """One process in plain float32: nothing to wrap, to scale or to wait for.

    Fabric would do the same, but importing it takes seconds and 75 MB.
    """

    device: torch.device
    world_size: int = 1
    global_rank: int = 0
    is_global_zero: bool = True

    def setup(self, module: Any, optimizer: Any) -> tuple[Any, Any]:
        return module, optimizer

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def backward(self, tensor: Tensor) -> None:
        tensor.backward()  # type: ignore[no-untyped-call]

    def clip_gradients(self, module: Any, optimizer: Any, *, max_norm: float) -> Tensor:
        return torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm)

    def all_reduce(self, data: Tensor, *, reduce_op: str) -> Tensor:
        return data

    def barrier(self) -> None:
        """Nobody to wait for."""


def make_processes(config: TrainerConfig, device: torch.device) -> Processes:
    """This process alone; or Lightning Fabric for another precision than float32, or for the processes that
    torchrun started (gradients averaged by DDP)."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 and config.precision == "32-true":
        return OneProcess(device)
    return _fabric(config, device, world)


def _fabric(config: TrainerConfig, device: torch.device, world: int) -> Processes:
    from lightning_fabric import Fabric

    class Marked(Fabric):
        """Lets the loop call the module's own ``training_loss``."""

        def setup(self, module: Any, optimizer: Any) -> Any:  # type: ignore[override]
            wrapped, stepped = super().setup(module, optimizer)
            wrapped.mark_forward_method("training_loss")
            return wrapped, stepped

    accelerator = "gpu" if device.type == "cuda" else "cpu"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning_fabric.*")
        if world > 1:
            local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
            fabric = Marked(
                accelerator=accelerator,
                devices=local,
                num_nodes=max(1, world // local),
                strategy="ddp",
                precision=config.precision,
            )
        else:
            devices = [device.index or 0] if device.type == "cuda" else 1
            fabric = Marked(accelerator=accelerator, devices=devices, precision=config.precision)
        fabric.launch()
    return fabric
