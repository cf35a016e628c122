"""The gradient loop: epochs of steps, validation, best weights, early stop, checkpoints, hooks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recengine.contracts.batch import StepContext
from recengine.data import EvalTask
from recengine.data.clicks import ClickTable
from recengine.errors import CheckpointError, RecengineError
from recengine.evaluation.clicks import LOWER_IS_BETTER
from recengine.settings import diff
from recengine.training import checkpoint
from recengine.training.config import RunConfig
from recengine.training.determinism import fixed_threads, isolated_randomness, mix
from recengine.training.devices import Processes
from recengine.training.feeding import ClickFeeder, Feeder
from recengine.training.interrupt import Interrupt
from recengine.training.monitor import check_measured, check_monitor
from recengine.training.moving import to_device
from recengine.training.optimisation import make_optimizer, rate
from recengine.training.parts import len_of, loss_rows, part
from recengine.training.progress import Listener, Progress
from recengine.training.validation import measure, share


@dataclass
class Position:
    """``step`` steps of ``epoch`` are done; ``loss_sum`` and ``loss_rows`` are of that epoch so far;
    ``best_digest`` is the SHA-256 of the file of the best weights; ``plateaus`` validations were not better
    than the best before them."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_rows: int = 0
    best: float | None = None
    best_epoch: int | None = None
    best_digest: str | None = None
    waited: int = 0
    plateaus: int = 0
    stopped: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Events:
    """Whom the loop tells what happened."""

    progress: Listener
    epoch_end: Callable[[int, dict[str, float]], None]
    checkpoint_saved: Callable[[Path], None]


class Loop:
    """Trains ``network`` in place; afterwards it holds the weights of the best validation (of the last
    epoch without a validation task). ``folder`` is where checkpoints go (None: none are written)."""

    def __init__(
        self,
        network: Any,
        feeder: Feeder | ClickFeeder,
        validation: EvalTask | ClickTable | None,
        config: RunConfig,
        seed: int,
        processes: Processes,
        folder: Path | None,
        events: Events,
        identity: dict[str, Any],
        extras: dict[str, object],
    ) -> None:
        self.network, self.feeder = network, feeder
        self.config, self.training, self.seed, self.processes = config, config.training, seed, processes
        self.folder, self.events, self.identity, self.extras = folder, events, identity, extras
        self.validation = None
        if validation is not None:
            if isinstance(validation, EvalTask):
                check_monitor(self.training.monitor, config.evaluation)
            self.validation = share(validation, processes.global_rank, processes.world_size)
        self.position = Position()
        self.best: dict[str, Tensor] | None = None
        network.to(processes.device)
        bare = make_optimizer(network.parameters(), self.training, processes=processes.world_size)
        self.module, self.optimizer = processes.setup(network, bare)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.feeder.steps_per_epoch * self.training.epochs

    def run(self) -> Position:
        """Train to the end; raises KeyboardInterrupt after saving when Ctrl-C was pressed."""
        device = self.processes.device
        with isolated_randomness(device), fixed_threads(device), Interrupt() as interrupt:
            while self.position.epoch < self.training.epochs and not self.position.stopped:
                self._epoch(interrupt)
            if self.folder is not None and checkpoint.latest_name(self.folder) != self._name():
                self._save()
        if self.best is not None:
            self.network.load_state_dict(self.best)
        return self.position

    def resume(self) -> bool:
        """Take up the latest checkpoint; False where there is none. Raises CheckpointError when it belongs
        to another model, data, seed or settings, when no training can stand where it says, or when its
        weights or the best ones are not to be used."""
        entries = ("identity", "position", "optimizer")
        found = checkpoint.load_latest(self.folder, entries) if self.folder is not None else None
        if found is None:
            return False
        tensors, facts = found
        _same_run(facts["identity"], self.identity, str(self.folder))
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            parts[kind][name] = value
        where = f"{self.folder}, position"
        self.position = checkpoint.record(Position, facts["position"], where)
        _check_position(self.position, self.feeder.steps_per_epoch, where)
        if self.position.best_epoch is not None:
            path = self._best_path(self.position.best_epoch)
            self.best = checkpoint.load_tensors(path, self.position.best_digest)
            checkpoint.restore_module(self.network, self.best, str(path))  # refused now, not after training
        checkpoint.restore_module(self.network, parts["model"], str(self.folder))
        checkpoint.restore_optimizer(self.optimizer, parts["optimizer"], facts["optimizer"])
        return True

    def _epoch(self, interrupt: Interrupt) -> None:
        here, count = self.position, self.feeder.steps_per_epoch
        self.module.train()
        began, rows = time.perf_counter(), 0
        pending = torch.zeros((), dtype=torch.float64, device=self.processes.device)
        for batch in islice(self.feeder.epoch(here.epoch), here.step, None):
            rows += len_of(batch)
            total = loss_rows(batch)
            pending += self._step(batch).double() * total
            here.loss_rows += total
            here.step += 1
            if self.processes.device.type == "cpu" or here.step == count or interrupt.asked:
                here.loss_sum += self._over_processes(pending)
                pending.zero_()
            self._tell("train", rows / (time.perf_counter() - began))
            if interrupt.asked and here.step < count:
                self._stop_here()
        self._finish_epoch(time.perf_counter() - began)
        if interrupt.asked:
            self._stop_here()

    def _step(self, batch: Any) -> Tensor:
        """One optimiser step; returns this process's share of the batch's mean loss, detached."""
        here = self.position
        torch.manual_seed(mix(self.seed, here.epoch, here.step, self.processes.global_rank))
        mine, factor = part(batch, self.processes.global_rank, self.processes.world_size)
        context = StepContext(
            here.epoch, here.step, self.training.epochs, self.feeder.steps_per_epoch, self.extras
        )
        done = here.epoch * self.feeder.steps_per_epoch + here.step
        size = rate(self.training, done, self.steps) * self.training.plateau_factor**here.plateaus
        for group in self.optimizer.param_groups:
            group["lr"] = size * group.get("scale", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        rows = to_device(mine, self.processes.device)
        with self.processes.autocast():  # which Fabric enters by itself under DDP alone
            loss: Tensor = self.module.training_loss(rows, context)
        self.processes.backward(loss if factor == 1.0 else loss * factor)
        if self.training.clip_norm > 0:
            self.processes.clip_gradients(self.module, self.optimizer, max_norm=self.training.clip_norm)
        self.optimizer.step()
        return loss.detach() * (factor / self.processes.world_size)

    def _over_processes(self, value: Tensor) -> float:
        if self.processes.world_size > 1:
            value = self.processes.all_reduce(value.clone(), reduce_op="sum")
        return float(value)

    def _finish_epoch(self, seconds: float) -> None:
        here = self.position
        loss = here.loss_sum / max(1, here.loss_rows)
        if not math.isfinite(loss):
            raise RecengineError(
                "training diverged",
                where=f"epoch {here.epoch + 1}",
                found=f"loss {loss}",
                expected="a finite loss",
                fix="lower training.learning_rate, or set training.clip_norm",
            )
        record: dict[str, Any] = {"epoch": here.epoch + 1, "loss": loss, "seconds": round(seconds, 4)}
        metrics = self._validate(here.epoch)
        here.history.append({**record, **metrics})
        here.epoch, here.step, here.loss_sum, here.loss_rows = here.epoch + 1, 0, 0.0, 0
        self.events.epoch_end(here.epoch, {"loss": loss, **metrics})
        every = self.training.checkpoint_every
        if self.folder is not None and every and here.epoch % every == 0:
            self._save()

    def _validate(self, epoch: int) -> dict[str, float]:
        due = (epoch + 1) % self.training.evaluate_every == 0 or epoch + 1 == self.training.epochs
        if self.validation is None or not due:
            return {}
        self._tell("validate", None)
        metrics = measure(self.network, self.validation, self.config.evaluation, self.processes)
        name = self.training.monitor
        check_measured(name, sorted(metrics))
        here, value = self.position, metrics[name]
        if here.best is None or (value < here.best if name in LOWER_IS_BETTER else value > here.best):
            here.best, here.best_epoch, here.waited = value, epoch + 1, 0
            self.best = {key: tensor.detach().clone() for key, tensor in self.network.state_dict().items()}
            if self.folder is not None and self.processes.is_global_zero:
                here.best_digest = checkpoint.save_tensors(self._best_path(epoch + 1), self.best)
        else:
            here.waited += 1
            here.plateaus += 1
            here.stopped = 0 < self.training.patience <= here.waited
        return metrics

    def _tell(self, stage: Any, speed: float | None) -> None:
        here, count = self.position, self.feeder.steps_per_epoch
        newest: dict[str, Any] = next(
            (entry for entry in reversed(here.history) if self.training.monitor in entry), {}
        )
        self.events.progress(
            Progress(
                stage,
                here.epoch * count + here.step,
                self.steps,
                here.epoch + 1,
                self.training.epochs,
                here.loss_sum / here.loss_rows if here.loss_rows else None,
                {key: value for key, value in newest.items() if key not in ("epoch", "loss", "seconds")},
                speed,
            )
        )

    def _stop_here(self) -> None:
        if self.folder is not None and checkpoint.latest_name(self.folder) != self._name():
            self._save()
        raise KeyboardInterrupt

    def _name(self) -> str:
        return f"step-{self.position.epoch:05d}-{self.position.step:08d}"

    def _best_path(self, epoch: int) -> Path:
        assert self.folder is not None
        return self.folder / f"best-{epoch:05d}.safetensors"

    def _save(self) -> None:
        assert self.folder is not None
        if self.processes.is_global_zero:
            state, plain = checkpoint.optimizer_state(self.optimizer)
            tensors = {f"model/{name}": value for name, value in self.network.state_dict().items()}
            tensors |= {f"optimizer/{name}": value for name, value in state.items()}
            facts = {"identity": self.identity, "position": asdict(self.position), "optimizer": plain}
            path = checkpoint.save_checkpoint(self.folder, self._name(), tensors, facts)
            for old in self.folder.glob("best-*.safetensors"):
                if self.position.best_epoch is None or old != self._best_path(self.position.best_epoch):
                    old.unlink()
            self.events.checkpoint_saved(path)
        self.processes.barrier()


def _check_position(found: Position, steps: int, where: str) -> None:
    """Raises CheckpointError where a training with ``steps`` steps an epoch cannot stand there. How many
    epochs are asked for does not matter: a longer or shorter course may take it up."""
    done = len(found.history)  # one record an epoch
    bounds = {
        "epoch": (done, done),
        "step": (0, max(1, steps) - 1),
        "best_epoch": (1, done),
        "plateaus": (0, done),
        "waited": (0, found.plateaus),
    }
    for name, (low, high) in bounds.items():
        value, allowed = getattr(found, name), f"{low}" if low == high else f"{low} to {high}"
        if value is not None and not low <= value <= high:
            raise CheckpointError(
                "the record is damaged",
                where=where,
                found=f"{name} {value}",
                expected=f"{allowed} ({done} epochs on record, {steps} steps each)",
                fix="restore it from a copy, or train again",
            )


def _same_run(found: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    for key in expected:
        if found.get(key) != expected[key]:
            here, there = _apart(found.get(key), expected[key])
            raise CheckpointError(
                f"the checkpoint belongs to a run with another {_NAMES.get(key, key)}",
                where=where,
                found=here,
                expected=there,
                fix="resume with the settings, data and seed of that run, or choose another directory",
            )


_NAMES = {"settings": "value of a setting", "data": "version of the data"}


def _apart(found: Any, expected: Any) -> tuple[str, str]:
    """What differs, and nothing else."""
    if not isinstance(found, dict) or not isinstance(expected, dict):
        return str(found), str(expected)
    apart = diff(found, expected)[:5]
    return (
        ", ".join(f"{one.key} = {str(one.left)[:20]}" for one in apart),
        ", ".join(f"{one.key} = {str(one.right)[:20]}" for one in apart),
    )
