"""From a model's name, a file and ``--set`` to the settings of a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recengine.config import Config
from recengine.errors import ConfigError
from recengine.settings import Layered, layer


def settings_class(model: str, values: Mapping[str, Any]) -> type[Config]:
    """The class of all settings of a fit of ``model`` with the loss that ``values`` name."""
    from recengine.hooks import host
    from recengine.training.config import loss_name, run_config_class

    entry = host().registries["model"].get(model)
    loss = loss_name(entry, values)
    return run_config_class(entry, None if loss is None else host().registries["loss"].get(loss))


def sections_of(model: str, values: Mapping[str, Any]) -> dict[str, type[Config]]:
    """The sections of the settings of ``model`` ('model', 'training', ...) and their classes; ``values``:
    what is set, for they name the loss."""
    from recengine.config import nested_config

    found = {}
    for name, field in settings_class(model, values).model_fields.items():
        section = nested_config(field)
        if section is not None and issubclass(section, Config):
            found[name] = section
    return found


def given(model: str, file: Path | None, sets: Sequence[str]) -> dict[str, Any]:
    """What a file and the command line set, checked for ``model``; errors name file and line."""
    layers = _layers(model, file, sets)
    layers.parse(settings_class(model, layers.values))
    return layers.values


def effective(model: str, file: Path | None, sets: Sequence[str]) -> dict[str, Any]:
    """All settings of a fit of ``model``, defaults included."""
    layers = _layers(model, file, sets)
    return layers.parse(settings_class(model, layers.values)).model_dump()


def _layers(model: str, file: Path | None, sets: Sequence[str]) -> Layered:
    """File and command line; the model's name that a run's config.toml holds must be this model's."""
    layers = layer({}, file, sets)
    named = layers.values.pop("name", model)
    if named != model:
        raise ConfigError(
            "these are the settings of another model",
            where=layers.where("name"),
            found=named,
            expected=model,
            fix=f"recengine fit {named}, or take the line 'name' out",
        )
    return layers
