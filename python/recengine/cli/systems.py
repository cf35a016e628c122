"""Runs on disk, gathered into systems: the runs of one model with one configuration and several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recengine.cli.inputs import load_run, read_json
from recengine.errors import DataError, UsageError

if TYPE_CHECKING:
    from recengine.evaluation import Evaluation
    from recengine.evaluation.comparing import System


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Folders with a finished run: those named, and those directly below a folder that is none itself."""
    found: list[Path] = []
    for path in paths:
        if (path / "run.json").is_file():
            found.append(path)
            continue
        below = sorted(child.parent for child in path.glob("*/run.json")) if path.is_dir() else []
        if not below:
            raise UsageError(
                "there is no finished run here",
                where=str(path),
                expected="a folder that fit wrote, or one of such",
            )
        found += below
    return list(dict.fromkeys(found))


def evaluation_of(folder: Path) -> Evaluation:
    """The test evaluation of a run; measured now if that was not done yet."""
    from recengine.evaluation import Evaluation

    if not (folder / "evaluation.json").is_file():
        load_run(folder).evaluate().write(folder)
    return Evaluation.read(folder)


def collect(paths: Sequence[Path]) -> list[System]:
    """The systems among runs. Two runs belong to one system when model and settings agree; of one system no
    seed may occur twice."""
    from recengine.evaluation.comparing import System

    groups: dict[str, dict[int, Path]] = {}
    labels: dict[str, str] = {}
    for folder in run_folders(paths):
        about = read_json(folder / "run.json")
        key = repr((about["model"], about["config"]))
        runs = groups.setdefault(key, {})
        seed = int(about["seed"])
        if seed in runs:
            raise DataError(
                f"two runs of one system have the seed {seed}",
                where=f"{runs[seed]} and {folder}",
                fix="leave one out: a repeated seed is no independent run",
            )
        runs[seed] = folder
        labels.setdefault(key, about["model"])
    names = _distinct(labels)
    return [
        System.of(names[key], {seed: evaluation_of(folder) for seed, folder in runs.items()})
        for key, runs in groups.items()
    ]


def _distinct(labels: dict[str, Any]) -> dict[str, str]:
    """Model names; numbered where one model occurs with several configurations."""
    names: dict[str, str] = {}
    for key, label in labels.items():
        same = [other for other in labels if labels[other] == label]
        names[key] = label if len(same) == 1 else f"{label} ({same.index(key) + 1})"
    return names
