"""From names and settings to a model with its loss."""

from __future__ import annotations

from typing import Any, cast

import torch

from recengine.contracts.loss import EVERY_NEED, LossConfig
from recengine.contracts.model import DataFacts, DirectFit, LearnsFromGraph, Trainable
from recengine.data import Interactions
from recengine.errors import PluginError, UsageError
from recengine.hooks import Host
from recengine.training.config import RunConfig
from recengine.training.determinism import isolated_randomness, mix


def build_model(
    name: str,
    config: RunConfig,
    facts: DataFacts,
    seed: int,
    host: Host,
    device: torch.device | None = None,
    train: Interactions | None = None,
) -> torch.nn.Module:
    """The registered model ``name``, initialised from ``seed``, with its loss and, where it asks for them,
    the training interactions attached.

    Raises PluginError when the class breaks its contract, UsageError when the loss needs what the model does
    not supply.
    """
    entry = host.registries["model"].get(name)
    with isolated_randomness(device or torch.device("cpu")):
        torch.manual_seed(mix(seed))
        network = _made(entry, config.model, facts)
    if not isinstance(network, torch.nn.Module) or not isinstance(network, (Trainable, DirectFit)):
        raise PluginError(
            f"the model '{name}' of plugin '{entry.plugin}' cannot be fitted",
            found=type(network).__name__,
            expected="a torch.nn.Module with feed() and training_loss(), or with fit_directly()",
        )
    if config.loss is not None:
        if not hasattr(network, "attach_loss"):
            raise PluginError(
                f"the model '{name}' declares a default loss but takes none",
                expected="a method attach_loss(loss)",
            )
        with isolated_randomness(device or torch.device("cpu")):
            torch.manual_seed(mix(seed, 1))
            loss = build_loss(config.loss, host, facts)
            cast(Any, network).attach_loss(loss)
    learner: Any = network
    if train is not None and isinstance(learner, LearnsFromGraph):
        learner.attach_data(train)
    if config.loss is not None:
        _need_what_is_supplied(name, network, cast(Any, config.loss).name, loss)
    return network


def _need_what_is_supplied(model: str, network: Any, name: str, loss: Any) -> None:
    needs = getattr(loss, "needs", None)
    if not isinstance(needs, frozenset) or not needs <= EVERY_NEED:
        raise PluginError(
            f"the loss '{name}' does not declare what it needs",
            where=f"{type(loss).__name__}.needs",
            found=repr(needs),
            expected=f"a frozenset of {', '.join(sorted(EVERY_NEED))}",
        )
    missing = needs - getattr(network, "supplies", needs)
    if "negatives" in needs and isinstance(network, Trainable) and not network.feed().negatives:
        missing |= {"negatives"}
    if missing:
        raise UsageError(
            f"the loss '{name}' needs what the model '{model}' does not supply",
            where="loss.name",
            found=f"no {' and no '.join(sorted(missing))}",
            fix="take another loss, or let the model's feed() ask for negatives, its LossInput hold the rest "
            "and its `supplies` name it",
        )


def _made(entry: Any, *arguments: Any) -> Any:
    """The registered class called as the contract says. Raises PluginError where its signature is another."""
    try:
        return entry.load()(*arguments)
    except TypeError as wrong:
        if wrong.__traceback__ is not None and wrong.__traceback__.tb_next is not None:
            raise  # from inside it
        raise PluginError(
            f"the model '{entry.name}' of plugin '{entry.plugin}' cannot be made",
            found=str(wrong),
            expected="a class that is called as Model(config, facts)",
        ) from wrong


def build_loss(config: LossConfig, host: Host, facts: DataFacts | None = None) -> Any:
    """The loss that the section names, made from its settings, its state sized by ``facts``."""
    entry = host.registries["loss"].get(cast(Any, config).name)
    base = entry.load_config() or LossConfig
    settings = {key: getattr(config, key) for key in base.model_fields}
    loss = entry.load()(base(**settings))
    if facts is not None and hasattr(loss, "prepare"):
        loss.prepare(facts)
    return loss
