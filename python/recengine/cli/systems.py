"""Runs on disk, gathered into systems: the runs of one model with one configuration and several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recengine.cli.inputs import load_run, read_data, read_json
from recengine.cli.output import note
from recengine.cli.sections import given
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

    if not (folder / "exposure.parquet").is_file():
        load_run(folder).evaluate().write(folder)
    return Evaluation.read(folder)


def complete(
    systems: Sequence[str],
    data: str | None,
    seeds: int,
    out: Path,
    options: Sequence[str],
    sets: Sequence[str],
) -> list[Path]:
    """Folders of all runs asked for: those that are folders, and ``seeds`` runs of each model that is named,
    fitted where they are missing below ``out``. A run that was interrupted is taken up again."""
    from recengine.hooks import host

    folders: list[Path] = []
    for name in systems:
        if Path(name).is_dir():
            folders += run_folders([Path(name)])
            continue
        host().registries["model"].get(name)
        if data is None:
            raise UsageError(
                f"'{name}' is no folder; as a model it needs data", fix="name the data with --data"
            )
        for seed in range(seeds):
            folder = out / f"{name}-seed{seed}"
            if not (folder / "run.json").is_file():
                note(f"fitting {name}, seed {seed}")
                _fit(name, data, seed, folder, options, sets)
            folders.append(folder)
    return folders


def _fit(model: str, data: str, seed: int, folder: Path, options: Sequence[str], sets: Sequence[str]) -> None:
    from recengine.training import fit

    settings = given(model, None, sets)
    resume = (folder / "checkpoints").is_dir()
    fit(
        model,
        _interactions(data, tuple(options)),
        settings=settings,
        seed=seed,
        directory=folder,
        resume=resume,
    )


@cache
def _interactions(data: str, options: tuple[str, ...]) -> Any:
    return read_data(data, options)


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
