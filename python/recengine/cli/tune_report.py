"""What ``tune`` says at the end: the recommendation, what it changes, what fresh seeds give."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from recengine.cli.output import emit_json, note, table
from recengine.cli.tune_objective import FitObjective, of_clicks, split_of

if TYPE_CHECKING:
    from recengine.contracts.tuner import Conclusion
    from recengine.tuning import Concluded, Decision, Study


def conclude(
    study: Study,
    concluded: Concluded,
    objective: FitObjective,
    confirm: int,
    judge: int,
    page: Path | None,
    as_json: bool,
    given: Sequence[str],
) -> None:
    """Judge, confirm and show what the study came to; ``given``: the words that set the default point."""
    from recengine.tuning import noise

    best = study.best()
    conclusion, recommended = concluded.conclusion, concluded.recommended
    if concluded.reason:
        note(f"the best trial is recommended: {concluded.reason}")
    found = noise(study.history())
    decision = judged_earlier(study, objective, recommended, judge)
    if decision is not None and not decision.adopted:
        recommended = study.space.default
    repeats = confirmed(study, objective, recommended, confirm)
    result = {
        "study": str(study.file.path),
        "trials": len(study.searched()),
        "confirmations": [
            {"number": one.number, "values": one.values, "parameters": one.parameters}
            for one in study.confirmations()
        ],
        "noise": found,
        "best": {"value": best.values[0] if best.values else None, "parameters": best.parameters},
        "recommended": recommended,
        "changed": study.space.changed(recommended),
        "decision": decision,
        "confirmation": repeats,
        "conclusion": conclusion,
    }
    if page is not None:
        from recengine.reports import write_study

        facts = {"model": objective.model, "data": objective.data, "metric": objective.metric}
        if found is not None:
            facts["noise of one trial"] = f"{found.sd:.4f} (sd, {found.freedom} degrees of freedom)"
        if decision is not None:
            facts["judged by earlier events"] = worded(decision)
        told: dict[str, Any] = {"recommended": recommended, "confirmation": repeats, "facts": facts}
        told["conclusion"] = conclusion
        told |= _background(objective)
        title = f"Tuning {objective.model} on {Path(objective.data).name}"
        note(f"report: {write_study(study, page, title=title, **told)}")
    if as_json:
        emit_json(result)
        return
    if decision is not None:
        typer.echo(f"judged by earlier events: {worded(decision)}")
    changed = set(study.space.changed(recommended))
    if not changed:
        typer.echo(f"recommended: the default settings ({len(study.space.names)} were searched)")
    else:
        _changes(study, recommended, conclusion)
    if conclusion:
        table(
            ["changed settings", "predicted", "sd", "best observed"],
            [[point.changed, point.mean, point.sd, point.observed] for point in conclusion.frontier],
            title=f"what fewer changes would give ({study.objectives[0]})",
        )
    if found is not None:
        typer.echo(f"noise of one trial: sd {found.sd:.4f}, from {found.freedom} degrees of freedom")
    for label, values in repeats.items():
        typer.echo(f"{label}: " + ", ".join(f"{value:.4f}" for value in values))
    if changed:
        words = [*given, *(f"--set={name}={recommended[name]}" for name in sorted(changed))]
        note("use it with: " + " ".join(shlex.quote(word) for word in words))


def _changes(study: Study, recommended: Mapping[str, Any], conclusion: Conclusion | None) -> None:
    """What the recommendation changes, and what putting each setting back would lose."""
    changed = [name for name in study.space.names if name in study.space.changed(recommended)]
    losses = {row.name: row for row in conclusion.reversions} if conclusion else {}
    rows = []
    for name in changed:
        lost = losses.get(name)
        interval = f"[{lost.low:+.4f}, {lost.high:+.4f}]" if lost else None
        rows.append(
            [
                name,
                study.space.default[name],
                recommended[name],
                lost.loss if lost else None,
                interval,
                lost.importance if lost else None,
            ]
        )
    title = f"{len(changed)} of {len(study.space.names)} settings changed"
    columns = ["setting", "default", "recommended", "lost if put back", "95 %", "importance"]
    table(columns, rows, title=title)


def _background(objective: FitObjective) -> dict[str, Any]:
    """Data, audit and protocol of the validation, for the page."""
    from recengine.evaluation import protocol_of
    from recengine.hooks import host
    from recengine.reports import About
    from recengine.reports.facts import data_facts
    from recengine.reports.pieces import audit_entry
    from recengine.training import resolve
    from recengine.training.splitting import audited

    if of_clicks(objective.model):
        return {}
    config, split = resolve(objective.model, objective.settings, host()), split_of(objective)
    audit = tuple(audit_entry(finding) for finding in audited(split))
    chosen = config.evaluation
    asked = protocol_of(split, "validation", metrics=chosen.metrics or None, cutoffs=chosen.cutoffs)
    return {"about": About(data=data_facts(split, Path(objective.data).name), audit=audit), "protocol": asked}


def judged_earlier(study: Study, objective: FitObjective, point: dict[str, Any], n: int) -> Decision | None:
    """The recommendation against the default on earlier events; None where there is no question."""
    import numpy as np

    from recengine.tuning import decide

    if n < 1 or not study.space.changed(point):
        return None
    seeds = [20_000 + study.seed + i for i in range(n)]
    tables = [
        np.stack([objective.judged(candidate, seed) for seed in seeds], axis=1)
        for candidate in (point, study.space.default)
    ]
    return decide(*tables)


def worded(decision: Decision) -> str:
    found = decision.test
    ends = f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
    return f"gain {ends}, " + ("the change is recommended" if decision.adopted else "the default stays")


def confirmed(study: Study, objective: FitObjective, point: dict[str, Any], n: int) -> dict[str, list[float]]:
    """Fresh seeds for the recommendation and for the default, paired."""
    if n < 1:
        return {}
    seeds = [10_000 + study.seed + i for i in range(n)]
    return {
        "recommended, fresh seeds": [objective(point, seed) for seed in seeds],
        "default, the same seeds": [objective(study.space.default, seed) for seed in seeds],
    }
