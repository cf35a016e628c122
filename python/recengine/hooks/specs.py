"""The hooks that recengine calls. docs/hooks/<name>.md has a page for each, with the exact signature.

Registration hooks are given a registry and call ``registry.add(...)``. Life-cycle hooks are told what
happened. ``firstresult`` hooks stop at the first plugin that answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from recengine.hooks.registry import Registry

PROJECT = "recengine"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def recengine_register_models(registry: Registry) -> None:
    """Register models: ``registry.add(name, "package.module:Class", config="package.module:Config")``."""


@hookspec
def recengine_register_losses(registry: Registry) -> None:
    """Register losses (contracts.loss)."""


@hookspec
def recengine_register_metrics(registry: Registry) -> None:
    """Register metrics (contracts.metric)."""


@hookspec
def recengine_register_datasets(registry: Registry) -> None:
    """Register data sets that a user can name (contracts.dataset.DatasetSource)."""


@hookspec
def recengine_register_readers(registry: Registry) -> None:
    """Register readers of file layouts (contracts.dataset.Reader)."""


@hookspec
def recengine_register_samplers(registry: Registry) -> None:
    """Register negative samplers."""


@hookspec
def recengine_register_tuners(registry: Registry) -> None:
    """Register tuners (contracts.tuner)."""


@hookspec
def recengine_register_recourse(registry: Registry) -> None:
    """Register recourse methods (contracts.recourse)."""


@hookspec
def recengine_register_auditors(registry: Registry) -> None:
    """Register auditors (contracts.auditor)."""


@hookspec
def recengine_register_commands(registry: Registry) -> None:
    """Register commands: the object is a Typer app or a function, mounted under its name."""


@hookspec
def recengine_fit_start(run: Any) -> None:
    """Before the first step; ``run`` is the recengine.training.Run."""


@hookspec
def recengine_epoch_end(run: Any, epoch: int, metrics: dict[str, float]) -> None:
    """After an epoch and its validation."""


@hookspec
def recengine_checkpoint_saved(run: Any, path: str) -> None:
    """After a checkpoint was renamed into place."""


@hookspec
def recengine_fit_end(run: Any) -> None:
    """After the best weights were restored."""


@hookspec
def recengine_evaluation_end(run: Any, evaluation: Any) -> None:
    """After an evaluation, with its per-user rows."""


@hookspec(firstresult=True)
def recengine_choose_device(config: Any) -> str | None:
    """Name the device to train on ('cpu', 'cuda:1'); the first answer wins."""
