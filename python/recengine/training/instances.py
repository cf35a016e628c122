"""A model that was made by hand, fitted as if a plugin had registered it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import torch

from recengine.config import Config
from recengine.contracts.model import ModelConfig, PredictsClicks
from recengine.errors import UsageError
from recengine.hooks import Host, Registry
from recengine.training.config import CLICKS


def hosted(
    model: str | torch.nn.Module, settings: Mapping[str, Any] | None, host: Host
) -> tuple[str, dict[str, Any], Host]:
    """Name, settings and host to fit with. A module is registered, in a copy of the host, under the
    lower-case name of its class; its ``config``, if it has one, becomes the section 'model'.

    Raises UsageError for settings of a model that is already made, or something that is no model.
    """
    given = dict(settings or {})
    if isinstance(model, str):
        return model, given, host
    if not isinstance(model, torch.nn.Module):
        raise UsageError(
            "a model is a registered name or a torch.nn.Module", where="fit", found=type(model).__name__
        )
    if any(key == "model" or key.startswith("model.") for key in given):
        raise UsageError(
            "the model is already made, so it takes no settings",
            where="settings",
            found="the section 'model'",
            fix="give them to the class, or fit by name",
        )
    name = type(model).__name__.lower()
    config = getattr(model, "config", None)
    extras = {"default_loss": "softmax"} if getattr(model, "loss", True) is None else {}
    if isinstance(model, PredictsClicks):
        extras["task"] = CLICKS
    if not isinstance(config, Config):
        return name, given, _with(host, name, model, ModelConfig, extras)
    given["model"] = config.model_dump()
    return name, given, _with(host, name, model, type(config), extras)


def _with(
    host: Host, name: str, model: torch.nn.Module, config: type[Config], extras: dict[str, str]
) -> Host:
    models = Registry("model")
    for entry in host.registries["model"]:
        if entry.name != name:
            with models.registering(entry.plugin):
                models.add(
                    entry.name, entry.target, config=entry.config, summary=entry.summary, **entry.extras
                )
    with models.registering("made by hand"):
        models.add(name, lambda *_: model, config=config, **extras)
    other = copy(host)
    other.registries = {**host.registries, "model": models}
    return other
