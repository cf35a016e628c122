"""Many fits, here or in the workers of an executor: what is finished stays, what is missing is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recengine.data import Interactions, Split
from recengine.errors import CheckpointError, RecengineError, UsageError
from recengine.training.fitting import fit

Source = Callable[[], Interactions | Split]
Told = Callable[["Job", int, int], None]


@dataclass(frozen=True)
class Job:
    """A fit with its evaluation on the test task, kept in ``directory``."""

    model: str
    settings: Mapping[str, Any]
    seed: int
    directory: Path

    @property
    def done(self) -> bool:
        """Whether the run and its evaluation are whole."""
        return (self.directory / "run.json").is_file() and (self.directory / "evaluation.json").is_file()


def run_jobs(
    jobs: Sequence[Job],
    source: Source,
    *,
    executor: Executor | None = None,
    workers: int = 1,
    told: Told | None = None,
) -> None:
    """Do every job that is not done; call it again to go on after a kill or Ctrl-C.

    source: gives the data; called in the worker, so it must be importable there (a process pool). executor:
    any concurrent.futures executor, at most ``workers`` jobs are handed to it at a time; None runs them here.
    told: called with the job, its number from 1 and how many there are, when one begins.

    A job that fails does not stop the others: when all are through, UsageError names the first failure.
    Errors of the settings are raised at once.
    """
    missing = [job for job in jobs if not job.done]
    failures: list[tuple[Job, BaseException]] = []
    running: dict[Future[None], Job] = {}
    waiting = list(enumerate(missing, start=1))
    while waiting or running:
        while waiting and len(running) < max(1, workers):
            number, job = waiting.pop(0)
            if told is not None:
                told(job, number, len(missing))
            if executor is None:
                _note(job, _attempt(job, source), failures)
            else:
                running[executor.submit(fit_job, job, source)] = job
        ready, _ = wait(running, return_when=FIRST_COMPLETED) if running else (set(), None)
        for future in ready:
            job = running.pop(future)
            _note(job, future.exception(), failures)
    if failures:
        job, first = failures[0]
        raise UsageError(
            f"{len(failures)} of {len(missing)} runs failed",
            where=f"{job.model}, seed {job.seed}",
            found=f"{type(first).__name__}: {first}",
            fix="mend it and run the same command again; finished runs are kept",
        ) from first


def fit_job(job: Job, source: Source) -> None:
    """Fit (from the latest checkpoint where there is one), save, evaluate."""
    from recengine.training.loading import load

    if (job.directory / "run.json").is_file():
        load(job.directory).evaluate()
        return
    resume = (job.directory / "checkpoints").is_dir()
    run = fit(
        job.model,
        source(),
        settings=job.settings,
        seed=job.seed,
        directory=job.directory,
        resume=resume,
    )
    run.evaluate()


def _attempt(job: Job, source: Source) -> Exception | None:
    try:
        fit_job(job, source)
    except Exception as failure:  # the other runs are worth having whatever happened to this one
        return failure
    return None


def _note(job: Job, failure: BaseException | None, failures: list[tuple[Job, BaseException]]) -> None:
    if failure is None:
        return
    everywhere = isinstance(failure, RecengineError) and not isinstance(failure, CheckpointError)
    if everywhere or isinstance(failure, KeyboardInterrupt):
        raise failure  # settings and data are the same for all
    failures.append((job, failure))
