"""A run from the folder that it was saved in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from recengine import __version__
from recengine.contracts.auditor import Finding
from recengine.contracts.model import DataFacts
from recengine.data import Split
from recengine.errors import CheckpointError
from recengine.hooks import Host
from recengine.hooks import host as process_host
from recengine.training import checkpoint
from recengine.training.build import build_model
from recengine.training.click_run import ClickRun
from recengine.training.config import CLICKS, resolve
from recengine.training.instances import hosted
from recengine.training.kept import KeptEvaluations
from recengine.training.run import Run
from recengine.training.store import load_any_split

_ENTRIES = ("format", "model", "seed", "facts", "config", "weights", "findings", "environment")


def load(path: str | Path, *, model: torch.nn.Module | None = None, host: Host | None = None) -> Run:
    """The run in a folder that ``Run.save`` (or ``fit(directory=...)``) wrote.

    model: a module of the same class, for a run of one that was made by hand; its weights are replaced.

    Raises CheckpointError when a file is missing, damaged, holds NaN or belongs to another model, UsageError
    when no plugin registers the model. What was measured is read when ``evaluations`` is asked for it, and
    only then refused (CheckpointError) where it is damaged.
    """
    folder = Path(path)
    host = host or process_host()
    if model is not None:
        host = hosted(model, None, host)[2]
    if not (folder / "run.json").is_file():
        raise CheckpointError(
            "there is no finished run in this folder",
            where=str(folder),
            expected="run.json",
            fix="name the folder that fit(directory=...) or save() wrote; resume an interrupted fit first",
        )
    about = _described(folder / "run.json")
    config = resolve(about["model"], about["config"], host)
    facts = checkpoint.record(DataFacts, about["facts"], f"{folder / 'run.json'}, facts")
    findings = checkpoint.record(list[Finding], about["findings"], f"{folder / 'run.json'}, findings")
    split: Any = load_any_split(folder / "split")
    train = split.train if isinstance(split, Split) else None
    network = build_model(about["model"], config, facts, about["seed"], host, train=train)
    tensors = checkpoint.load_tensors(folder / "model.safetensors", about["weights"])
    checkpoint.restore_module(network, tensors, str(folder / "model.safetensors"))
    network.eval()
    return _class_of(about)(
        about["model"],
        network,
        config,
        split,
        facts,
        about["seed"],
        folder,
        checkpoint.load_lines(folder / "history.jsonl"),
        findings,
        about["environment"],
        KeptEvaluations(folder, about.get("task", "")),
        host,
    )


def _described(path: Path) -> dict[str, Any]:
    """What run.json says. Raises CheckpointError for another format and for an entry that is missing."""
    about = checkpoint.load_json(path)
    missing = [name for name in _ENTRIES if name not in about]
    if missing or about["format"] != checkpoint.FORMAT:
        raise CheckpointError(
            "the record of the run has another format",
            where=str(path),
            found="no " + ", ".join(missing) if missing else f"format {about['format']}",
            expected=f"format {checkpoint.FORMAT} of recengine {__version__}",
            fix="open it with the recengine that wrote it, restore it from a copy, or fit again",
        )
    return about


def _class_of(about: Mapping[str, Any]) -> type[Run]:
    """ClickRun for a model that predicts clicks."""
    return ClickRun if about.get("task") == CLICKS else Run
