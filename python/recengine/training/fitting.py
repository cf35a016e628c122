"""``fit``: from a model's name and data to a Run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recengine.contracts.model import DirectFit
from recengine.data import Interactions, Split
from recengine.data.clicks import ClickLog, ClickSplit
from recengine.data.matrix import pair_matrix
from recengine.errors import UsageError
from recengine.files import alone_in
from recengine.hooks import Host, emit
from recengine.hooks import host as process_host
from recengine.training import heap
from recengine.training.build import build_model
from recengine.training.click_run import ClickRun
from recengine.training.config import CLICKS, RunConfig, model_entry, resolve
from recengine.training.determinism import isolated_randomness, mix
from recengine.training.devices import choose_device, make_processes
from recengine.training.feeding import ClickFeeder, Feeder, make_click_feeder, make_feeder
from recengine.training.instances import hosted
from recengine.training.loop import Events, Loop
from recengine.training.progress import Listener, Progress, silent
from recengine.training.record import environment, fingerprint
from recengine.training.run import Run
from recengine.training.splitting import prepared, without_order


def fit(
    model: str | torch.nn.Module,
    data: Interactions | Split | ClickLog | ClickSplit,
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    directory: str | Path | None = None,
    progress: Listener | None = None,
    resume: bool = False,
    host: Host | None = None,
) -> Run:
    """Fit ``model`` on ``data``.

    model: a registered name, or a module made by hand (it is fitted in place from the weights it has, and a
    saved run of it is loaded with ``load(path, model=...)``).
    data: a Split, or interactions that are split as ``settings['split']`` says. The leakage audit looks at
    the split first. A model that predicts clicks takes a ClickLog, or a ClickSplit, and is given back as a
    ClickRun. settings: sections 'model', 'loss', 'training', 'split', 'evaluation' ('data'). directory: where
    checkpoints and the finished run are written. progress: called after every step. resume: go on from the
    latest checkpoint in ``directory`` (from the start where there is none). host: other plugins than the
    installed ones.

    Raises UsageError (unknown model, directory in use or held by another process), ConfigError, DataError,
    LeakageError, CheckpointError (resuming something else), KeyboardInterrupt
    (after saving, so that ``resume`` works).
    """
    seed = _checked_seed(seed)
    name, given, host = hosted(model, settings, host or process_host())
    config = resolve(name, given, host)
    with _held(directory, resume) as folder:
        return _fit(name, data, config, seed, folder, progress or silent, resume, host)


def _fit(
    name: str,
    data: Interactions | Split | ClickLog | ClickSplit,
    config: RunConfig,
    seed: int,
    folder: Path | None,
    listener: Listener,
    resume: bool,
    host: Host,
) -> Run:
    material = prepared(data, config, clicks=model_entry(name, host).extras.get("task") == CLICKS)
    config, facts = material.config, material.facts
    device = choose_device(config.training, host)
    network = build_model(name, config, facts, seed, host, device, material.interactions())
    make: Any = ClickRun if isinstance(material.split, ClickSplit) else Run
    findings = material.findings
    run: Run = make(name, network, config, material.split, facts, seed, folder, findings=findings, host=host)
    run.record = environment()
    if isinstance(network, DirectFit):
        emit(host, "recengine_fit_start", run=run)
        _solve(run, network, device, listener)
        leader = True
    else:
        leader = _train(run, device, listener, resume)
    heap.release()
    network.eval()
    if leader:
        if folder is not None:
            run.save(folder)
        emit(host, "recengine_fit_end", run=run)
    else:
        run.directory = None  # the first process writes, also what is evaluated later
    return run


def _solve(run: Run, network: DirectFit, device: torch.device, listener: Listener) -> None:
    def told(done: int, total: int, note: str = "") -> None:
        listener(Progress("fit", done, total, note=note))

    with isolated_randomness(device):
        torch.manual_seed(mix(run.seed, 1))
        network.fit_directly(run.split.train, run.seed, told)


def _train(run: Run, device: torch.device, listener: Listener, resume: bool) -> bool:
    """Run the gradient loop; whether this process is the one that writes."""
    assert run.host is not None
    host, network = run.host, run.model
    processes = make_processes(run.config.training, device)
    feed = network.feed()  # type: ignore[operator]
    asked = run.config.training
    source: Feeder | ClickFeeder
    extras: dict[str, object] = {}
    if isinstance(run, ClickRun):
        source = make_click_feeder(run.split.train, feed, asked.batch_size, run.seed)
    else:
        run.findings += without_order(run.split, feed)
        source = make_feeder(
            run.split.train, feed, asked.batch_size, run.seed, host, reshuffle=asked.reshuffle_ties
        )
        counts = run.split.train.popularity().astype(np.float32)
        extras["popularity"] = torch.from_numpy(counts).to(processes.device)
        extras["user_items"] = user_items(run.split.train, processes.device)
    leader = bool(processes.is_global_zero)

    def epoch_end(epoch: int, metrics: dict[str, float]) -> None:
        emit(host, "recengine_epoch_end", run=run, epoch=epoch, metrics=metrics)

    def saved(path: Path) -> None:
        emit(host, "recengine_checkpoint_saved", run=run, path=str(path))

    loop = Loop(
        network,
        source,
        run.split.validation,
        run.config,
        run.seed,
        processes,
        None if run.directory is None else run.directory / "checkpoints",
        Events(listener if leader else silent, epoch_end, saved),
        _identity(run),
        extras,
    )
    run.history = loop.position.history
    if resume and loop.resume():
        run.history = loop.position.history
    emit(host, "recengine_fit_start", run=run)
    loop.run()
    network.to("cpu")
    return leader


def user_items(train: Interactions, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(indptr, items) of LossInput.user_items: what every user was trained on, repeated events once."""
    matrix = pair_matrix(train)
    items = torch.from_numpy(matrix.columns.astype(np.int64))
    return torch.from_numpy(matrix.indptr).to(device), items.to(device)


def _identity(run: Run) -> dict[str, Any]:
    """What a checkpoint must agree on with the run that takes it up."""
    config: dict[str, Any] = run.config.model_dump(mode="json")
    training = config.pop("training")
    for free in ("epochs", "device", "checkpoint_every", "patience"):
        training.pop(free)
    return {
        "model": run.name,
        "settings": {**config, "training": training},
        "seed": run.seed,
        "data": fingerprint(run.split),
    }


def _checked_seed(seed: object) -> int:
    if not isinstance(seed, Integral) or int(seed) < 0:
        raise UsageError("not a seed", where="seed", found=repr(seed), expected="a whole number, 0 or more")
    return int(seed)


@contextmanager
def _held(directory: str | Path | None, resume: bool) -> Iterator[Path | None]:
    """The folder to write to, while no other process does; of processes that fit together the first holds
    it."""
    if directory is None and resume:
        raise UsageError("resume needs the directory of the run", where="fit", fix="give directory=...")
    if directory is None:
        yield None
        return
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            "this is a file; a run needs a folder",
            where=str(folder),
            fix="choose another name for the folder",
        )
    with alone_in(folder) if os.environ.get("RANK", "0") == "0" else nullcontext():
        used = [name for name in ("run.json", "checkpoints") if (folder / name).exists()]
        if used and not resume:
            raise UsageError(
                "the directory already holds a run",
                where=str(folder),
                found=", ".join(used),
                fix="go on with it (--resume, in Python resume=True), or choose another directory",
            )
        yield folder
