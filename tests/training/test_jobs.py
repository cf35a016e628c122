"""Many fits: what is there is not made again, an executor does the same work, failures are named."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from recengine.data import Interactions
from recengine.errors import ConfigError, UsageError
from recengine.evaluation import Evaluation
from recengine.training.jobs import Job, run_jobs

QUICK = {"model": {"epochs": 2, "factors": 8}}


def events() -> Interactions:
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(40), 8)
    item = np.concatenate([rng.permutation(30)[:8] for _ in range(40)])
    return Interactions.from_arrays(user, item, np.tile(np.arange(8), 40))


def jobs(folder: Path, seeds: int = 3) -> list[Job]:
    return [Job("bpr", QUICK, seed, folder / f"bpr-{seed}") for seed in range(seeds)]


def test_an_executor_makes_the_same_runs_and_nothing_twice(tmp_path: Path) -> None:
    told: list[int] = []
    run_jobs(jobs(tmp_path / "here"), events, told=lambda job, number, of: told.append(number))
    assert told == [1, 2, 3]
    with ThreadPoolExecutor(2) as pool:
        run_jobs(jobs(tmp_path / "pool"), events, executor=pool, workers=2)
    for here, there in zip(jobs(tmp_path / "here"), jobs(tmp_path / "pool"), strict=True):
        assert here.done
        assert there.done
        one, two = Evaluation.read(here.directory), Evaluation.read(there.directory)
        assert one.per_user.equals(two.per_user)
    told.clear()
    run_jobs(jobs(tmp_path / "here", 4), events, told=lambda job, number, of: told.append(job.seed))
    assert told == [3]


def test_a_run_without_its_evaluation_is_only_evaluated(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, 1)
    run_jobs([job], events)
    (job.directory / "evaluation.json").unlink()
    stamp = (job.directory / "model.safetensors").stat().st_mtime_ns

    def nothing() -> Interactions:
        raise AssertionError("the data were read again")

    run_jobs([job], nothing)
    assert job.done
    assert (job.directory / "model.safetensors").stat().st_mtime_ns == stamp


def test_one_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    asked = jobs(tmp_path)
    asked[1].directory.mkdir(parents=True)
    (asked[1].directory / "run.json").write_text("{}")  # a folder that cannot be evaluated

    with pytest.raises(UsageError, match="1 of 3 runs failed") as failed:
        run_jobs(asked, events)
    assert "bpr, seed 1" in str(failed.value)
    assert asked[0].done
    assert asked[2].done


def test_bad_settings_stop_at_once(tmp_path: Path) -> None:
    bad = [Job("bpr", {"model": {"factors": -1}}, seed, tmp_path / str(seed)) for seed in range(2)]
    with pytest.raises(ConfigError):
        run_jobs(bad, events)
