"""The device and the processes of a fit."""

from __future__ import annotations

import os
import warnings

import torch
from lightning_fabric import Fabric

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


def make_fabric(config: TrainerConfig, device: torch.device) -> Fabric:
    """Fabric on one device, or on the processes that torchrun started (gradients averaged by DDP)."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning_fabric.*")
        if world > 1:
            local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
            fabric = Fabric(
                accelerator=accelerator,
                devices=local,
                num_nodes=max(1, world // local),
                strategy="ddp",
                precision=config.precision,
            )
        else:
            devices = [device.index or 0] if device.type == "cuda" else 1
            fabric = Fabric(accelerator=accelerator, devices=devices, precision=config.precision)
        fabric.launch()
    return fabric
