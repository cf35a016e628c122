"""Runs on disk, gathered into systems: the runs of one model with one configuration and several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recengine.cli.inputs import load_run, read_for, read_json
from recengine.cli.output import note
from recengine.cli.sections import given
from recengine.cli.workers import worker_pool
from recengine.config import did_you_mean
from recengine.errors import DataError, UsageError

if TYPE_CHECKING:
    from recengine.evaluation import Evaluation
    from recengine.evaluation.click_result import ClickEvaluation
    from recengine.evaluation.systems import System
    from recengine.training.jobs import Job


@dataclass(frozen=True)
class Fits:
    """How the runs of models that are named come about. workers: fits side by side, each in a process."""

    data: str | None
    out: Path
    options: Sequence[str] = ()
    sets: Sequence[str] = ()
    workers: int = 1


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


def evaluation_of(folder: Path) -> Evaluation | ClickEvaluation:
    """The test evaluation of a run; measured now if that was not done yet."""
    from recengine.training.kept import KeptEvaluations

    if not (folder / "evaluation.json").is_file():
        load_run(folder).evaluate()
    found: Evaluation | ClickEvaluation = KeptEvaluations(
        folder, read_json(folder / "run.json").get("task", "")
    )["test"]
    return found


def complete(systems: Sequence[str], seeds: int, fits: Fits) -> list[Path]:
    """Folders of all runs asked for: those that are folders, and ``seeds`` runs of each model that is named
    (one of a model whose seed changes nothing), fitted where they are missing below ``fits.out``. A run that
    was interrupted is taken up again."""
    folders: list[Path] = []
    jobs: list[Job] = []
    for name in systems:
        if Path(name).is_dir():
            folders += run_folders([Path(name)])
            continue
        asked = _jobs(name, seeds, fits)
        jobs += asked
        folders += [job.directory for job in asked]
    if jobs:
        _run(jobs, fits)
    return list(dict.fromkeys(folders))


def _jobs(name: str, seeds: int, fits: Fits) -> list[Job]:
    """Checked before anything is fitted: the model, its settings, the data, and what lies there already."""
    from recengine.hooks import host
    from recengine.training.jobs import Job

    models = host().registries["model"]
    if name not in models:
        near = did_you_mean(name, [entry.name for entry in models])
        raise UsageError(
            "there is no such folder and no such model",
            where=name,
            expected="a folder that fit wrote, or one of "
            + ", ".join(sorted(entry.name for entry in models)),
            fix=f"did you mean '{near}'?" if near else "list them with: recengine models list",
        )
    if fits.data is None:
        raise UsageError(f"'{name}' is no folder; as a model it needs data", fix="name the data with --data")
    settings = given(name, None, fits.sets)
    asked = _asked(name, settings)
    count = 1 if is_deterministic(name) else seeds
    jobs = [Job(name, settings, seed, fits.out / f"{name}-seed{seed}") for seed in range(count)]
    for job in jobs:
        _same_question(job.directory, asked, fits.data)
    return jobs


def _asked(model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with defaults, before the data add to them."""
    from recengine.hooks import host
    from recengine.training import resolve

    return resolve(model, settings, host()).model_dump(mode="json")


def _same_question(folder: Path, asked: dict[str, Any], data: str) -> None:
    """A run that lies there must be the one that is asked for: other settings or data are refused. run.json
    says what the data made of its settings (the features of a click log, say), source.json what was asked."""
    if not (folder / "run.json").is_file():
        return
    source = folder / "source.json"
    told = read_json(source) if source.is_file() else {}
    was = told.get("asked") or read_json(folder / "run.json")["config"]
    differing = _differing(was, asked)
    if differing:
        raise UsageError(
            "the run that lies here was made with other settings",
            where=str(folder),
            found=", ".join(differing[:5]),
            fix="choose another --out, or leave the settings as they were",
        )
    before = told.get("data")
    if before is not None and before != _place(data):
        raise UsageError(
            "the run that lies here was made from other data",
            where=str(folder),
            found=before,
            expected=_place(data),
            fix="choose another --out",
        )


def _differing(was: Any, asked: Any, prefix: str = "") -> list[str]:
    if isinstance(was, dict) and isinstance(asked, dict):
        keys = dict.fromkeys([*was, *asked])
        return [
            found for key in keys for found in _differing(was.get(key), asked.get(key), f"{prefix}{key}.")
        ]
    return [] if was == asked else [f"{prefix.rstrip('.')} = {was} (asked: {asked})"]


def _place(data: str) -> str:
    path = Path(data).expanduser()
    return str(path.resolve()) if path.exists() else data


def _run(jobs: Sequence[Job], fits: Fits) -> None:
    from recengine.files import write_json
    from recengine.training.jobs import run_jobs

    assert fits.data is not None
    kinds = {_task(job.model) for job in jobs}
    if len(kinds) > 1:
        raise UsageError(
            "models that predict clicks and models that rank a catalogue learn from different data",
            found=", ".join(dict.fromkeys(job.model for job in jobs)),
            fix="compare models of one kind; a ranker behind a retriever: recengine rerank",
        )
    source = partial(_interactions, jobs[0].model, fits.data, tuple(fits.options))
    for job in jobs:
        if not job.done:
            job.directory.mkdir(parents=True, exist_ok=True)
            told: dict[str, Any] = {"data": _place(fits.data), "options": list(fits.options)}
            told["asked"] = _asked(job.model, job.settings)
            write_json(job.directory / "source.json", told)
    workers = min(fits.workers, sum(not job.done for job in jobs))
    try:
        if workers <= 1:
            run_jobs(jobs, source, told=_tell)
            return
        with worker_pool(workers) as pool:
            run_jobs(jobs, source, executor=pool, workers=workers, told=_tell)
    except KeyboardInterrupt:
        done = sum(job.done for job in jobs)
        note(f"interrupted: {done} of {len(jobs)} runs are finished and kept below {fits.out}")
        note("run the same command again to go on")
        raise


def _tell(job: Job, number: int, of: int) -> None:
    note(f"fitting {job.model}, seed {job.seed} ({number} of {of})")


@cache
def _interactions(model: str, data: str, options: tuple[str, ...]) -> Any:
    return read_for(model, data, options)


def _task(model: str) -> Any:
    from recengine.hooks import host

    return host().registries["model"].get(model).extras.get("task")


def is_deterministic(model: str) -> bool:
    """Whether the model was registered with ``deterministic=True``: its seed changes nothing."""
    from recengine.hooks import host

    models = host().registries["model"]
    return model in models and bool(models.get(model).extras.get("deterministic", False))


def collect(paths: Sequence[Path]) -> list[System]:
    """The systems among runs: see ``folders_by_system``."""
    return [_system(name, runs) for name, runs in folders_by_system(paths).items()]


def _system(name: str, folders: dict[int, Path]) -> System:
    from recengine.evaluation.click_result import ClickEvaluation
    from recengine.evaluation.systems import System

    found = {seed: evaluation_of(folder) for seed, folder in folders.items()}
    clicks = {seed: one for seed, one in found.items() if isinstance(one, ClickEvaluation)}
    if clicks:
        return System.of_clicks(name, clicks)
    model = str(read_json(next(iter(folders.values())) / "run.json")["model"])
    ranked = {seed: one for seed, one in found.items() if not isinstance(one, ClickEvaluation)}
    return System.of(name, ranked, deterministic=is_deterministic(model))


def folders_by_system(paths: Sequence[Path]) -> dict[str, dict[int, Path]]:
    """Run folders by system and seed. Two runs belong to one system when model and settings agree; of one
    system no seed may occur twice."""
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
    return {names[key]: dict(sorted(runs.items())) for key, runs in groups.items()}


def _distinct(labels: dict[str, Any]) -> dict[str, str]:
    """Model names; numbered where one model occurs with several configurations."""
    names: dict[str, str] = {}
    for key, label in labels.items():
        same = [other for other in labels if labels[other] == label]
        names[key] = label if len(same) == 1 else f"{label} ({same.index(key) + 1})"
    return names
