"""``recengine quickstart``: three models on real data, an honest table, a report, in minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recengine.cli.inputs import DataOptions
from recengine.cli.output import Json, emit_json, note, stderr, table

if TYPE_CHECKING:
    from recengine.cli.quickstart_steps import Learned, Question
    from recengine.contracts.auditor import Finding
    from recengine.reports import Report
    from recengine.reports.content import Example


GROCERIES = "groceries"


def quickstart(
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="Your own file, or a data set's name, instead of the groceries."),
    ] = None,
    data_option: DataOptions = None,
    rows_in_order: Annotated[
        bool, typer.Option("--rows-in-order", help="The rows of --data are in time order.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the report.")] = Path("recengine-quickstart"),
    user: Annotated[
        str | None, typer.Option("--user", help="Original id of the user to recommend to.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")] = 0,
    as_json: Json = False,
) -> None:
    """Fit popularity, EASE and SASRec, rank all items for every user, print a table with 95 % intervals and
    write an HTML report. Needs no network."""
    from recengine.cli import quickstart_steps as steps
    from recengine.data import audit
    from recengine.hooks import host
    from recengine.reports import report_of, write_report

    start = time.perf_counter()
    question = _question(data, [*(data_option or []), *(["order=rows"] if rows_in_order else [])])
    for sentence in question.told:
        note(f"{sentence}\n")
    findings = audit(question.split)
    _say_findings(findings)
    chosen, notes = steps.plans(question.split, host().registries["model"])
    for sentence in notes:
        note(sentence)
    learned = [_learned(plan, question, seed) for plan in chosen]
    with _working("ranking every item for every user"):
        report = report_of(
            {one.label: one.run for one in learned},
            title=question.title,
            asked=(*question.told, *notes),
            data_name=question.name,
            headline=steps.METRIC,
            user=user,
        )
        report = _completed(report, question, learned, findings)
        page = write_report(report, out / "report.html")
    seconds = time.perf_counter() - start
    if as_json:
        emit_json({"report": page, "seconds": seconds, "content": report})
    else:
        _show(report, page, seconds)


def _question(data: str | None, options: list[str]) -> Question:
    from recengine.cli import quickstart_steps as steps
    from recengine.cli.inputs import read_data

    if data is None or data == GROCERIES:
        with _working("reading a year of grocery baskets"):
            return steps.groceries_question(read_data(GROCERIES, options))
    with _working(f"reading {data}"):
        events = read_data(data, options)
    return steps.own_question(Path(data).name, events)


def _learned(plan: Any, question: Question, seed: int) -> Learned:
    from recengine.cli import quickstart_steps as steps

    done = steps.learn(plan, question.split, seed)
    picked = f", picked on validation: {done.picked}" if done.picked else ""
    note(f"  {done.label} fitted in {done.seconds:.1f} s{picked}")
    return done


def _completed(report: Report, question: Question, learned: list[Learned], findings: list[Finding]) -> Report:
    """The report with what only the quickstart knows: the search, the time, the audit, all three parts."""
    from recengine.reports.facts import data_facts
    from recengine.reports.pieces import audit_entry

    by_name = {one.label: one for one in learned}
    systems = tuple(
        replace(system, curves=by_name[system.name].curves, seconds=by_name[system.name].seconds)
        for system in report.systems
    )
    return replace(
        report,
        systems=systems,
        data=data_facts(question.split, question.name),
        audit=tuple(audit_entry(finding) for finding in findings),
    )


def _say_findings(findings: list[Finding]) -> None:
    if not findings:
        note("Leakage audit: nothing found.\n")
    for finding in findings:
        note(f"Leakage audit, {finding.check}: {finding.message}\n")


def _show(report: Report, page: Path, seconds: float) -> None:
    _show_figures(report)
    for shown in report.examples:
        _show_lists(report, shown)
    for paragraph in _verdict(report):
        typer.echo(paragraph)
    typer.echo(f"report: {page}")
    typer.echo(f"done in {seconds:.0f} s")


def _show_figures(report: Report) -> None:
    from recengine.reports import words
    from recengine.reports.page import metric_columns, ranked

    metrics = metric_columns(report.systems)[:3]
    rows = []
    for system in ranked(report):
        found = [system.metrics.get(metric) for metric in metrics]
        cells = ["" if e is None else f"{e.mean:.4f} ± {(e.high - e.low) / 2:.4f}" for e in found]
        rows.append([system.name, *cells])
    asked = max((e.n for system in report.systems for e in system.metrics.values()), default=0)
    items = report.data.items if report.data else 0
    typer.echo(f"{asked:,} users; all {items:,} items ranked, those already met left out")
    typer.echo(f"mean ± half of the 95 % interval; protocol {report.protocol_hash}")
    table(["model", *(words.metric_name(metric) for metric in metrics)], rows)


def _show_lists(report: Report, shown: Example) -> None:
    from recengine.reports.page import ranked

    best = ranked(report)[0].name
    names = [best, *(name for name in shown.lists if name != best)][:2]
    depth = max(len(shown.lists[name]) for name in names)
    lines = [[at + 1, *(_line(shown.lists[name], at) for name in names)] for at in range(depth)]
    typer.echo(
        f"{shown.user}, {shown.n_history} events before. ✓: among the {shown.n_targets} that came after"
    )
    table(["", *names], lines)


def _line(items: tuple[Any, ...], at: int) -> str:
    return f"{items[at].title}{' ✓' if items[at].hit else ''}" if at < len(items) else ""


def _verdict(report: Report) -> list[str]:
    from recengine.reports import verdict
    from recengine.reports.page import ranked

    return verdict.lead(report, ranked(report))


@contextmanager
def _working(what: str) -> Iterator[None]:
    with stderr().status(f"{what} …"):
        yield
