"""Settings of a run: the model's, the loss's, the trainer's, the split's and the evaluation's, in one class.

The class of a run's settings is made for the model and loss that were named, so that every section is
validated by its own config and ``recengine config schema MODEL`` can print all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal, cast

from pydantic import create_model

from recengine.config import Config, did_you_mean, knob
from recengine.contracts.loss import LossConfig
from recengine.contracts.model import ModelConfig
from recengine.data import SplitConfig
from recengine.data.clicks import ClickDataConfig, ClickSplitConfig
from recengine.errors import ConfigError, UsageError
from recengine.hooks import Entry, Host

Optimizer = Literal["adam", "adamw", "adagrad", "sgd"]
TableOptimizer = Literal["same", "rowwise_adagrad", "sparse_adam"]
Schedule = Literal["constant", "linear", "cosine"]
Precision = Literal["32-true", "64-true", "bf16-mixed", "16-mixed", "bf16-true"]
ClickPrecision = Literal["32-true", "64-true", "bf16-mixed", "16-mixed"]  # numbers reach a model in float32
ServingPrecision = Literal["32-true", "bf16-mixed"]  # 32-true: that of the weights


class TrainerConfig(Config):
    """How the gradient loop runs. Models that solve themselves read only ``device``."""

    epochs: int = knob(40, "passes over the training data", ge=1, low=5, high=200, log=True)
    batch_size: int = knob(
        0, "sequences or pairs in a step, over all processes; 0: 128 sequences or 4096 pairs", ge=0
    )
    learning_rate: float = knob(1e-3, "step size of the optimiser", gt=0, low=1e-4, high=1e-1, log=True)
    weight_decay: float = knob(
        0.0, "L2 pull on the weights (decoupled for adamw)", ge=0, low=1e-6, high=1e-1, log=True
    )
    optimizer: Optimizer = knob("adam", "rule that turns gradients into steps")
    schedule: Schedule = knob("constant", "course of the learning rate after the warm-up, down to zero")
    warmup: float = knob(0.0, "share of all steps in which the learning rate rises from zero", ge=0, lt=1)
    plateau_factor: float = knob(
        1.0, "factor on the learning rate after every validation that is not better; 1: none", gt=0, le=1
    )
    clip_norm: float = knob(0.0, "largest gradient norm of a step; 0: no clipping", ge=0)
    precision: Precision = knob("32-true", "arithmetic of the step")
    device: str = knob("auto", "'auto', 'cpu', 'cuda' or 'cuda:N'; auto takes a GPU where there is one")
    monitor: str = knob("ndcg@10", "validation metric that picks the best epoch and stops early")
    patience: int = knob(10, "validations without a better value before stopping; 0: never", ge=0)
    evaluate_every: int = knob(1, "epochs between validations", ge=1)
    reshuffle_ties: bool = knob(
        False, "give events of one user with one time stamp a fresh order in every epoch"
    )
    checkpoint_every: int = knob(1, "epochs between checkpoints; 0: only at the end of training", ge=0)


class EvaluationConfig(Config):
    """What is measured on the validation and test tasks."""

    metrics: tuple[str, ...] = knob((), "names of metrics; empty: the evaluator's default set")
    cutoffs: tuple[int, ...] = knob((10,), "list lengths")
    memory: str = knob("256MiB", "memory that scoring may use")


class RunConfig(Config):
    """All settings of a run. ``run_config_class`` makes the subclass for a model and its loss."""

    model: ModelConfig
    loss: LossConfig | None = None
    training: TrainerConfig = TrainerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


class ClickTrainerConfig(TrainerConfig):
    """How the gradient loop runs over the rows of a click log."""

    epochs: int = knob(20, "passes over the training data", ge=1, low=1, high=50, log=True)
    batch_size: int = knob(2048, "rows in a step, over all processes", ge=1)
    precision: ClickPrecision = knob("32-true", "arithmetic of the step")
    monitor: str = knob("auc", "validation metric that picks the best epoch and stops early")
    patience: int = knob(3, "validations without a better value before stopping; 0: never", ge=0)
    table_optimizer: TableOptimizer = knob(
        "same", "rule for tables of values: the same, or one that touches only the rows of a batch"
    )
    table_learning_rate: float = knob(
        0.05,
        "step size of the rule for tables, unless it is the same",
        gt=0,
        low=1e-3,
        high=0.5,
        log=True,
        when={"table_optimizer": ("rowwise_adagrad", "sparse_adam")},
    )


class ClickEvaluationConfig(Config):
    """How the predictions of a click model are measured."""

    bins: int = knob(10, "bins of the calibration", ge=2)
    slice_values: int = knob(20, "most frequent values in a table by slice", ge=1)


SECTIONS = ("model", "loss", "training", "split", "evaluation")
CLICKS = "clicks"  # what a model that predicts clicks says of itself: registry.add(..., task="clicks")


def loss_name(model: Entry, settings: Mapping[str, Any]) -> str | None:
    """The loss that the settings name, else the model's default, else None (a model with its own loss)."""
    section = settings.get("loss")
    chosen = section.get("name") if isinstance(section, Mapping) else None
    default = model.extras.get("default_loss")
    return cast("str | None", chosen or default)


def run_config_class(model: Entry, loss: Entry | None) -> type[RunConfig]:
    """The settings class of a run of ``model`` trained with ``loss`` (None: the model brings its own)."""
    model_class = model.load_config() or ModelConfig
    fields: dict[str, Any] = {"model": (model_class, model_class()), "split": (SplitConfig, SplitConfig())}
    if model.extras.get("task") == CLICKS:
        parts = {
            "training": ClickTrainerConfig,
            "split": ClickSplitConfig,
            "evaluation": ClickEvaluationConfig,
            "data": ClickDataConfig,
        }
        fields |= {name: (section, section()) for name, section in parts.items()}
    if loss is not None:
        base: Any = loss.load_config() or LossConfig
        name: Any = (Literal[loss.name], knob(loss.name, loss.summary))
        named = create_model(f"{base.__name__}Section", __base__=base, name=name)
        fields["loss"] = (named, named())
    return cast("type[RunConfig]", create_model(f"{model.name}_run", __base__=RunConfig, **fields))


def resolve(model: str, settings: Mapping[str, Any] | None, host: Host) -> RunConfig:
    """Validated settings of a run of the registered ``model``: sections, or 'section.key' for single values.

    Raises UsageError for an unknown model or loss, ConfigError for an unknown or invalid setting.
    """
    entry = host.registries["model"].get(model)
    settings = nested(settings or {})
    _known_sections(entry, settings)
    name = loss_name(entry, settings)
    if name is not None and "default_loss" not in entry.extras:
        raise ConfigError(
            f"the model '{model}' brings its own loss",
            where="settings",
            found=f"loss.name = '{name}'",
            fix="leave the section 'loss' out",
        )
    loss = None if name is None else host.registries["loss"].get(name)
    return run_config_class(entry, loss).parse(settings)


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """{'model.hidden_dim': 64} as {'model': {'hidden_dim': 64}}; single values win over their section.
    A section that is None (a run without a loss of its own, read back) is left out."""
    dotted = {key: value for key, value in settings.items() if "." in key}
    made = {key: value for key, value in settings.items() if "." not in key and value is not None}
    for key, value in dotted.items():
        section, _, name = key.partition(".")
        before = made.get(section, {})
        before = before.model_dump() if isinstance(before, Config) else before
        made[section] = {**before, name: value} if isinstance(before, Mapping) else before
    return made


def _known_sections(entry: Entry, settings: Mapping[str, Any]) -> None:
    known = (*SECTIONS, "data") if entry.extras.get("task") == CLICKS else SECTIONS
    for key in settings:
        if key in known:
            if not isinstance(settings[key], (Mapping, Config, NoneType)):
                raise ConfigError(f"'{key}' is a section", where="settings", found=repr(settings[key]))
            continue
        model_class = entry.load_config()
        homes = {"model": model_class, "training": TrainerConfig, "evaluation": EvaluationConfig}
        home = next((name for name, cls in homes.items() if cls and key in cls.model_fields), None)
        near = f"{home}.{key}" if home else did_you_mean(key, known)
        raise ConfigError(
            f"unknown setting '{key}'",
            where="settings",
            found=key,
            expected="one of the sections " + ", ".join(known),
            fix=f"did you mean '{near}'?" if near else "remove it",
        )


def model_entry(model: str, host: Host) -> Entry:
    """The registered model; raises UsageError with a did-you-mean."""
    if not isinstance(model, str):
        raise UsageError("a model is given by its registered name", found=type(model).__name__)
    return host.registries["model"].get(model)
