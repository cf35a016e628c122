"""``evaluate``: a fitted run on its test (or validation) task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from recengine.cli.inputs import RunFolder, load_run
from recengine.cli.output import Json, emit_json, note, table
from recengine.errors import CheckpointError

if TYPE_CHECKING:
    from recengine.training import Run

Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", "-m", help="Name of a metric (repeatable); default: all usual."),
]
Cutoffs = Annotated[
    list[int] | None, typer.Option("--cutoff", "-k", help="Length of the lists (repeatable).")
]

Candidates = Annotated[
    str,
    typer.Option(
        help="full: every item is ranked. uniform-N, popularity-N: the targets among N sampled items, shown "
        "but not kept; such figures compare with no others."
    ),
]


def evaluate(
    run: RunFolder,
    task: Annotated[str, typer.Option(help="test or validation.")] = "test",
    metric: Metrics = None,
    cutoff: Cutoffs = None,
    candidates: Candidates = "full",
    as_json: Json = False,
) -> None:
    """Evaluate RUN: a ranking model by full ranking with what was seen masked, a click model row by row.

    The rows a user, or a row, are kept in the run's folder.
    """
    fitted = load_run(run)
    options: dict[str, Any] = {}
    if metric:
        options["metrics"] = metric
    if cutoff:
        options["cutoffs"] = tuple(cutoff)
    if candidates != "full":
        options["candidates"] = candidates
    before = _measured_before(fitted, task)
    evaluation = fitted.evaluate(task, **options)
    lost = [name for name in before if name not in evaluation.metrics]
    if lost and options and candidates == "full":
        note(
            f"kept in {run} in place of what was measured before ({', '.join(lost)}); "
            f"recengine evaluate {run} --task {task} measures the usual metrics again"
        )
    rows = [list(row) for row in evaluation.summary()]
    if as_json:
        emit_json(
            {
                "run": str(run),
                "model": fitted.name,
                "task": task,
                "protocol": str(evaluation.protocol),
                "metrics": {name: {"mean": m, "low": a, "high": b, "n": n} for name, m, a, b, n in rows},
            }
        )
        return
    among = "" if candidates == "full" else f", SAMPLED candidates ({candidates})"
    title = f"{fitted.name}, {task} task{among} (95 % intervals)"
    table(["metric", "mean", "low", "high", "n"], rows, title=title)
    note(f"protocol: {evaluation.protocol}")


def _measured_before(fitted: Run, task: str) -> list[str]:
    """Metrics that were kept; none where they cannot be read: measuring again mends that."""
    try:
        kept = fitted.evaluations.get(task)
    except CheckpointError:
        return []
    return kept.metrics if kept else []
