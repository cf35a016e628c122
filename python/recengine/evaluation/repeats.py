"""Tables of tasks by runs: reading them, and what they say of reliability."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recengine.config import did_you_mean
from recengine.errors import DataError, UsageError
from recengine.evaluation.statistics import (
    ListStability,
    best_at_k,
    grader_noise,
    item_bootstrap,
    list_stability,
    variance_components,
    worst_at_k,
)
from recengine.evaluation.statistics.reliability import GraderNoise, Interval

_GUESSES = {
    "task": ("task", "task_id", "item_id", "instance_id", "user", "user_id", "item", "id"),
    "run": ("run", "run_idx", "run_id", "trial", "seed", "repeat", "attempt"),
    "score": (
        "score",
        "score_binarized",
        "reward",
        "resolved",
        "success",
        "correct",
        "value",
        "resolved_old_eval",
    ),
}

_LINE = "line of the file"


@dataclass(frozen=True)
class Repeats:
    """scores float64 [tasks, runs]; tasks and runs in the order of the rows and columns; outputs alike.
    lists: [tasks, runs, k], the ranked items of each run, where they were given."""

    tasks: tuple[object, ...]
    runs: tuple[object, ...]
    scores: NDArray[np.float64]
    outputs: NDArray[np.object_] | None = None
    lists: NDArray[np.str_] | None = None


@dataclass(frozen=True)
class EnvelopeRow:
    """At k runs: the expected best (any succeeds) and worst (all succeed), with intervals over tasks."""

    k: int
    best: Interval
    worst: Interval


@dataclass(frozen=True)
class Reliability:
    """expected_sd: sd of a run's mean if runs of a task were independent draws. mixed: tasks whose runs
    differ. grader, stability: None where no outputs or lists were given."""

    tasks: int
    runs: int
    binary: bool
    mean: float
    run_means: tuple[float, ...]
    run_sd: float
    expected_sd: float
    icc: float
    mixed: int
    envelope: list[EnvelopeRow]
    grader: GraderNoise | None
    stability: ListStability | None = None


def read_repeats(
    path: Path,
    *,
    task: str | None = None,
    run: str | None = None,
    score: str | None = None,
    system: str | None = None,
    output: str | None = None,
    lists: str | None = None,
    cut: bool = False,
) -> dict[str, Repeats]:
    """One table a system (the file's name without a system column). lists: column with the ranked items of a
    run, as a JSON list or separated by spaces or commas. Where every row has a run id of its own, runs are
    counted within their task. cut: keep as many runs of every task as the task with fewest has, the first
    ones; without it, tasks with unequal runs are refused.

    Raises DataError for missing columns, duplicate rows, missing runs or scores that are no numbers.
    """
    frame = _read(path)
    names = {
        "task": _column(frame, path, "task", task),
        "run": _column(frame, path, "run", run),
        "score": _column(frame, path, "score", score),
    }
    for extra in (system, output, lists):
        if extra is not None:
            _column(frame, path, "task", extra)
    if frame.height == 0:
        raise DataError("the table has no rows", where=str(path))
    frame = frame.with_row_index(_LINE, offset=2)
    shorten = _cut if cut else _as_it_is
    if system is None:
        return {path.stem.partition(".")[0]: _pivot(shorten(frame, names), path, names, output, lists)}
    return {
        str(key[0]): _pivot(shorten(part, names), path, names, output, lists)
        for key, part in sorted(
            frame.group_by(system, maintain_order=True), key=lambda group: str(group[0][0])
        )
    }


def summarise(repeats: Repeats, *, ks: Sequence[int] | None = None, draws: int = 10_000) -> Reliability:
    """Envelope, noise and components. Raises UsageError for k beyond the runs."""
    scores = repeats.scores
    tasks, runs = scores.shape
    binary = bool(np.isin(scores, (0.0, 1.0)).all())
    chosen = sorted({k for k in (ks or (1, 2, (runs + 1) // 2, runs)) if ks or 1 <= k <= runs})
    envelope = [
        EnvelopeRow(
            k,
            item_bootstrap(best_at_k(scores, k), draws=draws),
            item_bootstrap(worst_at_k(scores, k), draws=draws),
        )
        for k in chosen
    ]
    run_means = scores.mean(axis=0)
    within = float(scores.var(axis=1, ddof=1).mean()) if runs > 1 else float("nan")
    outputs = repeats.outputs
    grader = None
    if outputs is not None:
        items = np.repeat(np.arange(tasks), runs)
        grader = grader_noise(items, outputs.ravel(), scores.ravel())
    stability = None
    if repeats.lists is not None and runs > 1:
        stability = list_stability(repeats.lists.transpose(1, 0, 2))
    return Reliability(
        tasks,
        runs,
        binary,
        float(scores.mean()),
        tuple(run_means.tolist()),
        float(run_means.std(ddof=1)) if runs > 1 else float("nan"),
        float(np.sqrt(within / tasks)),
        variance_components(scores).icc if runs > 1 else float("nan"),
        int((np.ptp(scores, axis=1) > 0).sum()),
        envelope,
        grader,
        stability,
    )


def _read(path: Path) -> pl.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        if ".jsonl" in path.name:
            return pl.read_ndjson(path, infer_schema_length=None)
        return pl.read_csv(path, infer_schema_length=None)
    except (OSError, pl.exceptions.PolarsError) as broken:
        raise DataError(
            "the table cannot be read", where=str(path), found=str(broken).splitlines()[0]
        ) from broken


def _column(frame: pl.DataFrame, path: Path, kind: str, asked: str | None) -> str:
    if asked is not None:
        if asked in frame.columns:
            return asked
        near = did_you_mean(asked, frame.columns)
        raise DataError(
            f"there is no column '{asked}'",
            where=str(path),
            found=", ".join(frame.columns),
            fix=f"did you mean '{near}'?" if near else None,
        )
    guess = next((name for name in _GUESSES[kind] if name in frame.columns), None)
    if guess is None:
        raise DataError(
            f"no column looks like the {kind}",
            where=str(path),
            found=", ".join(frame.columns),
            fix=f"name it with --{kind}",
        )
    return guess


def _pivot(
    frame: pl.DataFrame, path: Path, names: dict[str, str], output: str | None, lists: str | None
) -> Repeats:
    task_rows, run_rows = frame[names["task"]].to_list(), frame[names["run"]].to_list()
    if len(set(run_rows)) == len(run_rows) > len(set(task_rows)):
        run_rows = _numbered(task_rows)
    tasks, runs = tuple(dict.fromkeys(task_rows)), tuple(dict.fromkeys(run_rows))
    at_task = {name: i for i, name in enumerate(tasks)}
    at_run = {name: i for i, name in enumerate(runs)}
    if len(tasks) < 2:
        raise UsageError("reliability needs at least two tasks", where=str(path), found=len(tasks))
    scores = _numbers(frame, path, names["score"])
    lines = frame[_LINE].to_list()
    at = np.full((len(tasks), len(runs)), -1, np.int64)
    for row, (name, column) in enumerate(zip(task_rows, run_rows, strict=True)):
        cell = at_task[name], at_run[column]
        if at[cell] >= 0:
            raise DataError(
                f"task {name} has two rows for run {column}",
                where=f"{path}, lines {lines[int(at[cell])]} and {lines[row]}",
                fix="name the column that tells them apart with --system, or drop one",
            )
        at[cell] = row
    missing = np.argwhere(at < 0)
    if len(missing):
        i, j = missing[0]
        raise DataError(
            f"{len(missing)} of {at.size} runs are missing",
            where=str(path),
            found=f"first: task {tasks[i]}, run {runs[j]}; tasks have {_fewest(task_rows)} runs or more",
            fix="complete the runs, or keep as many of each task as all have (--cut)",
        )
    outputs = None if output is None else np.array(frame[output].to_list(), dtype=object)[at]
    ranked = None if lists is None else _lists(frame, path, lists)[at]
    return Repeats(tasks, runs, scores[at], outputs, ranked)


def _as_it_is(frame: pl.DataFrame, names: dict[str, str]) -> pl.DataFrame:
    return frame


def _cut(frame: pl.DataFrame, names: dict[str, str]) -> pl.DataFrame:
    """The first rows of every task, as many as the task with fewest has; runs numbered within the task."""
    task_rows = frame[names["task"]].to_list()
    numbers = pl.Series(names["run"], _numbered(task_rows))
    return frame.with_columns(numbers).filter(pl.col(names["run"]) <= _fewest(task_rows))


def _fewest(task_rows: list[object]) -> int:
    return min(Counter(task_rows).values())


def _numbered(task_rows: list[object]) -> list[object]:
    """Every row has a run id of its own: runs are counted within their task, in the order of the rows."""
    seen: dict[object, int] = {}
    numbers: list[object] = []
    for task in task_rows:
        seen[task] = seen.get(task, 0) + 1
        numbers.append(seen[task])
    return numbers


def _numbers(frame: pl.DataFrame, path: Path, column: str) -> NDArray[np.float64]:
    """Scores as float64: numbers, booleans, or their texts."""
    values = frame[column]
    if values.dtype == pl.String:
        values = values.str.to_lowercase().replace({"true": "1", "false": "0"})
    scores = np.asarray(values.cast(pl.Float64, strict=False).to_numpy(), np.float64)
    if not np.isfinite(scores).all():
        row = int(np.argmax(~np.isfinite(scores)))
        raise DataError(
            f"{int((~np.isfinite(scores)).sum())} scores are missing or no numbers",
            where=f"{path}, line {frame[_LINE][row]}, column {column}",
            found=frame[column][row],
            fix="score these runs, or drop their tasks",
        )
    return scores


def _lists(frame: pl.DataFrame, path: Path, column: str) -> NDArray[np.str_]:
    """Ranked lists [rows, k] from their texts; all of one length."""
    told = [_items(text) for text in frame[column].to_list()]
    lengths = {len(items) for items in told}
    if len(lengths) != 1 or not min(lengths):
        raise DataError(
            "lists must be of one length",
            where=f"{path}, column {column}",
            found=f"{min(lengths)} to {max(lengths)} items",
            fix="cut them all to the same length",
        )
    return np.array(told, dtype=str)


def _items(text: object) -> list[str]:
    if isinstance(text, list | pl.Series):
        return [str(item) for item in text]
    shown = "" if text is None else str(text).strip()
    if shown.startswith("["):
        try:
            return [str(item) for item in json.loads(shown)]
        except ValueError:
            return shown.strip("[]").replace(",", " ").split()
    return shown.replace(",", " ").split()
