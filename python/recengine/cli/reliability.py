"""``reliability``: pass@k and its kin for any table of tasks by runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recengine.cli.output import Json, emit_json, note, table


def reliability(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="A CSV or Parquet table, one row a run of a task.")
    ],
    task: Annotated[str | None, typer.Option(help="Column of the task; default: guessed.")] = None,
    run: Annotated[str | None, typer.Option(help="Column of the run; default: guessed.")] = None,
    score: Annotated[
        str | None, typer.Option(help="Column of the score (0/1 or graded); default: guessed.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="Column of the system, for several in one table.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Column of the output, for the grader's own noise.")
    ] = None,
    lists: Annotated[
        str | None, typer.Option(help="Column of the ranked lists, for their stability over runs.")
    ] = None,
    cut: Annotated[
        bool, typer.Option("--cut", help="Keep as many runs of each task as the task with fewest has.")
    ] = False,
    k: Annotated[
        list[int] | None, typer.Option("-k", help="Numbers of runs; default: 1, 2, half of them, all.")
    ] = None,
    draws: Annotated[int, typer.Option(help="Bootstrap draws of the intervals.")] = 10_000,
    report: Annotated[
        Path | None, typer.Option(help="HTML page with the envelope, with JSON and CSV beside it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """How reliable a system is over repeated runs: any of k succeed, all of k succeed, run-to-run noise."""
    from recengine.evaluation.repeats import read_repeats, summarise

    tables = read_repeats(
        results, task=task, run=run, score=score, system=system, output=output, lists=lists, cut=cut
    )
    found = {name: summarise(repeats, ks=k, draws=draws) for name, repeats in tables.items()}
    if report is not None:
        from recengine.reports import write_reliability

        note(f"report: {write_reliability(found, report, title=f'Reliability: {results.name}')}")
    if as_json:
        emit_json(found)
        return
    for name, one in found.items():
        _print(name, one)


def _print(name: str, found: Any) -> None:
    words = ("pass@k (any)", "pass^k (all)") if found.binary else ("best@k", "worst@k")
    table(
        ["k", words[0], "95 %", words[1], "95 %", "gap"],
        [
            [
                row.k,
                row.best.estimate,
                f"[{row.best.low:.4f}, {row.best.high:.4f}]",
                row.worst.estimate,
                f"[{row.worst.low:.4f}, {row.worst.high:.4f}]",
                row.best.estimate - row.worst.estimate,
            ]
            for row in found.envelope
        ],
        title=f"{name}: {found.tasks} tasks x {found.runs} runs",
    )
    note(
        f"mean {found.mean:.4f}; runs {min(found.run_means):.4f} to {max(found.run_means):.4f}, "
        f"sd {found.run_sd:.4f} (independent runs of each task would give {found.expected_sd:.4f}); "
        f"intraclass correlation {found.icc:.2f}; {found.mixed} tasks went both ways"
    )
    if found.grader is not None:
        note(
            f"grader: {found.grader.disagreeing_pairs} of {found.grader.identical_pairs} pairs of identical "
            "outputs got different verdicts"
        )
    if found.stability is not None:
        note(
            f"lists of two runs: rank-biased overlap {found.stability.overlap:.4f}, "
            f"Jaccard {found.stability.jaccard:.4f}"
        )
