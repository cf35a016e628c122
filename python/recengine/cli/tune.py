"""``tune``: search the settings of a model, starting from its defaults."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recengine.cli.failures import INTERRUPTED
from recengine.cli.inputs import ConfigFile, Data, DataOptions, Model, Sets, read_for
from recengine.cli.output import Json, emit_json, note, table
from recengine.cli.search_space import search_space
from recengine.cli.sections import effective
from recengine.cli.workers import worker_pool
from recengine.errors import UsageError

if TYPE_CHECKING:
    from recengine.contracts.tuner import Conclusion
    from recengine.training.progress import Listener, Progress
    from recengine.tuning import Decision, Study, Trial
    from recengine.tuning.stopping import Report


_FREE = ("training.device", "training.checkpoint_every", "evaluation.memory")  # decide no value


@cache
def _data(model: str, name: str, options: tuple[str, ...]) -> Any:
    """Read once a process: every trial of a worker uses the same data."""
    return read_for(model, name, options)


def _clicks(model: str) -> bool:
    from recengine.hooks import host
    from recengine.training.config import CLICKS

    return host().registries["model"].get(model).extras.get("task") == CLICKS


@dataclass(frozen=True)
class FitObjective:
    """Fits the model at a point and returns the validation metric; the test task is never looked at."""

    model: str
    data: str
    options: tuple[str, ...]
    settings: dict[str, Any]
    metric: str

    def __call__(self, point: Mapping[str, Any], seed: int) -> float:
        return self._fit(point, seed, None)

    def judged(self, point: Mapping[str, Any], seed: int) -> Any:
        """Values of the users, fitted to the training events alone and judged by the last of these: targets
        that no trial was judged by."""
        from recengine.training import fit

        run = fit(self.model, _split_of(self).train, settings=self._at(point), seed=seed)
        return run.evaluate().values(self.metric)

    def _at(self, point: Mapping[str, Any]) -> dict[str, Any]:
        settings = {name: dict(section) for name, section in self.settings.items() if section is not None}
        for name, value in point.items():
            section, _, key = name.partition(".")
            settings.setdefault(section, {})[key] = value
        return settings

    def _fit(self, point: Mapping[str, Any], seed: int, progress: Listener | None) -> float:
        from recengine.training import fit

        data = _data(self.model, self.data, self.options)
        run = fit(self.model, data, settings=self._at(point), seed=seed, progress=progress)
        if run.split.validation is None:
            raise UsageError("tuning needs a validation task", fix="choose a split that has one")
        return float(run.evaluate("validation")[self.metric])


@dataclass(frozen=True)
class WatchedObjective(FitObjective):
    """The same; each epoch's validation is reported, so that a hopeless trial ends early."""

    def watched(self, point: Mapping[str, Any], seed: int, report: Report) -> float:
        told: set[int] = set()

        def listen(event: Progress) -> None:
            if self.metric in event.metrics and event.epoch not in told and event.stage == "train":
                told.add(event.epoch)
                report(event.epoch - 1, event.metrics[self.metric])

        return self._fit(point, seed, listen)


def tune(
    model: Model,
    data: Data,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, the default settings first.")] = 50,
    tuner: Annotated[str, typer.Option(help="Name of a registered tuner.")] = "bonsai",
    study: Annotated[Path, typer.Option(help="File of the study; an existing one goes on.")] = Path(
        "study.db"
    ),
    name: Annotated[
        str | None, typer.Option(help="Name of the study in the file; default: the model's.")
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(metavar="FILE[#NAME]", help="Copy the trials of another study that fit, once."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Validation metric, larger is better; default: ndcg@10, auc of a click model."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Tune only these settings (repeatable).")] = None,
    fix: Annotated[
        list[str] | None, typer.Option(help="Leave this setting at its default (repeatable).")
    ] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--range",
            metavar="a.b=LOW:HIGH|A,B",
            help="Narrow or widen, or search a setting that is not searched by itself; LOW:HIGH:log and "
            "LOW:HIGH:linear give the scale (repeatable).",
        ),
    ] = None,
    cost: Annotated[
        list[str] | None, typer.Option(metavar="a.b=2", help="Cost of changing a setting (repeatable).")
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option(metavar="'a.b + 2*c.d <= 5'", help="A linear limit (repeatable).")
    ] = None,
    confirm: Annotated[
        int, typer.Option(min=0, help="Repeats of the recommendation and of the default at the end.")
    ] = 2,
    judge: Annotated[
        int,
        typer.Option(
            min=0,
            help="Fits of the recommendation and of the default to the training events alone, judged by the "
            "last of these; the default stays unless the gain holds there. 0: no such test.",
        ),
    ] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Trials side by side, each in a process.")] = 1,
    to_the_end: Annotated[
        bool, typer.Option("--to-the-end", help="Train hopeless trials to their last epoch, too.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="HTML page of the study, with JSON and CSV beside it.")
    ] = None,
    data_option: DataOptions = None,
    sets: Sets = None,
    config: ConfigFile = None,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
    as_json: Json = False,
) -> None:
    """Search the settings of MODEL. What --set and --config give is the default point.

    The study survives anything: run the same command again to go on. Ctrl-C loses the running trials only.
    """
    from recengine.hooks import host
    from recengine.tuning import Study

    metric = _metric(model, metric)
    start = effective(model, config, sets or [])
    space = search_space(model, start, only, fix or [], ranges or [], cost or [], limit or [])
    # bad data fails here: before there is a study, not in every trial
    about = _about(model, _data(model, data, tuple(data_option or ())), start, space.names)
    entry = host().registries["tuner"].get(tuner)
    policy = entry.load()(entry.load_config()(), space, seed)
    made = Study.open(study, name or model, space, policy, seed=seed, objectives=(metric,), about=about)
    if warm_start is not None:
        _warm(made, warm_start)
    kind = FitObjective if to_the_end else WatchedObjective
    objective = kind(model, data, tuple(data_option or ()), start, metric)
    if judge:
        _judgeable(objective)
    stale = made.file.give_up(made.name, older_than_s=24 * 3600)
    if stale:
        note(f"given up: trials {', '.join(map(str, stale))}, whose process ended or was silent for a day")
    before = sum(trial.state != "running" for trial in made.trials())
    if before:
        note(f"{study}: going on after {before} of {trials} trials")
    try:
        _run(made, objective, trials, workers)
    except KeyboardInterrupt:
        note(f"interrupted; what has ended is kept in {study}, the same command goes on")
        raise typer.Exit(INTERRUPTED) from None
    given = [*(["--config", str(config)] if config else []), *(f"--set={one}" for one in sets or [])]
    _report(made, objective, confirm, judge, report, as_json, given)


def _about(model: str, data: Any, settings: Mapping[str, Any], searched: Sequence[str]) -> dict[str, str]:
    """What values depend on beside the point: the data and the settings that are not searched."""
    from recengine.settings import flatten

    free = {*searched, *_FREE}
    fixed = {name: str(value) for name, value in flatten(settings).items() if name not in free}
    return {"model": model, "data": _print_of(data), **fixed}


def _print_of(data: Any) -> str:
    """SHA-256 of the data, abridged; of a click log: of its files."""
    import hashlib

    from recengine.data import Interactions
    from recengine.data.clicks import ClickLog
    from recengine.training.checkpoint import digest_of
    from recengine.training.record import fingerprint

    if isinstance(data, Interactions):
        return data.fingerprint()[:16]
    parts = (
        [digest_of(file) for file in data.files] if isinstance(data, ClickLog) else fingerprint(data).values()
    )
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def _metric(model: str, asked: str | None) -> str:
    from recengine.evaluation.clicks import LOWER_IS_BETTER

    if asked in LOWER_IS_BETTER:
        raise UsageError(
            "less of this metric is better", where="--metric", found=asked, expected="auc or gauc"
        )
    return asked or ("auc" if _clicks(model) else "ndcg@10")


def _warm(study: Study, text: str) -> None:
    from recengine.tuning import StudyFile

    path, _, name = text.partition("#")
    if not Path(path).is_file():
        raise UsageError("there is no such study file", where="--warm-start", found=path)
    note(f"{study.warm_start(StudyFile(Path(path)), name or study.name)} trials copied from {path}")


def _run(study: Study, objective: FitObjective, trials: int, workers: int) -> None:
    def told(trial: Trial) -> None:
        known = study.trials()
        values = [t.values[0] for t in known if t.values and t.feasible]
        ended = next(t for t in known if t.number == trial.number)
        why = ": " + ended.note.splitlines()[0] if ended.state == "failed" and ended.note else ""
        how = (
            f"  {ended.values[0]:.4f}"
            if ended.values and ended.state == "done"
            else f"  ({ended.state}{why})"
        )
        done = sum(t.state != "running" for t in known)
        best = f"  best {study.objectives[0]} {max(values):.4f}" if values else ""
        note(f"trial {done}/{trials}{how}{best}")

    if workers == 1:
        study.run(objective, trials, finished=told)
        return
    with worker_pool(workers) as pool:
        study.run(objective, trials, executor=pool, workers=workers, finished=told)


def _report(
    study: Study,
    objective: FitObjective,
    confirm: int,
    judge: int,
    page: Path | None,
    as_json: bool,
    given: Sequence[str],
) -> None:
    """Conclude and show; ``given``: the words that set the default point."""
    from recengine.contracts.tuner import Concludes
    from recengine.tuning.study import observation

    history = [observation(trial) for trial in study.trials() if trial.state != "running"]
    best = study.best()
    enough = sum(bool(one.values) for one in history) > 1
    conclusion = study.tuner.conclude(history) if enough and isinstance(study.tuner, Concludes) else None
    recommended = conclusion.recommended if conclusion else best.parameters
    decision = _decide(study, objective, recommended, judge)
    if decision is not None and not decision.adopted:
        recommended = study.space.default
    repeats = _confirm(study, objective, recommended, confirm)
    result = {
        "study": str(study.file.path),
        "trials": len(study.trials()),
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
        if decision is not None:
            facts["judged by earlier events"] = _worded(decision)
        told: dict[str, Any] = {"recommended": recommended, "confirmation": repeats, "facts": facts}
        told["conclusion"] = conclusion
        told |= _background(objective)
        title = f"Tuning {objective.model} on {Path(objective.data).name}"
        note(f"report: {write_study(study, page, title=title, **told)}")
    if as_json:
        emit_json(result)
        return
    if decision is not None:
        typer.echo(f"judged by earlier events: {_worded(decision)}")
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

    if _clicks(objective.model):
        return {}
    config, split = resolve(objective.model, objective.settings, host()), _split_of(objective)
    audit = tuple(audit_entry(finding) for finding in audited(split))
    chosen = config.evaluation
    asked = protocol_of(split, "validation", metrics=chosen.metrics or None, cutoffs=chosen.cutoffs)
    return {"about": About(data=data_facts(split, Path(objective.data).name), audit=audit), "protocol": asked}


def _split_of(objective: FitObjective) -> Any:
    """The split that every trial fits to and is judged by."""
    from recengine.hooks import host
    from recengine.training import resolve
    from recengine.training.splitting import as_split

    config = resolve(objective.model, objective.settings, host())
    return as_split(_data(objective.model, objective.data, objective.options), config.split)  # type: ignore[attr-defined]


def _judgeable(objective: FitObjective) -> None:
    """Raises UsageError, or DataError, where the training events cannot be split once more."""
    from recengine.hooks import host
    from recengine.training import resolve
    from recengine.training.splitting import as_split

    if _clicks(objective.model):
        raise UsageError(
            "a click model has no earlier targets to judge by", where="--judge", fix="leave it out"
        )
    config = resolve(objective.model, objective.settings, host())
    as_split(_split_of(objective).train, config.split)  # type: ignore[attr-defined]


def _decide(study: Study, objective: FitObjective, point: dict[str, Any], n: int) -> Decision | None:
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


def _worded(decision: Decision) -> str:
    found = decision.test
    ends = f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
    return f"gain {ends}, " + ("the change is recommended" if decision.adopted else "the default stays")


def _confirm(study: Study, objective: FitObjective, point: dict[str, Any], n: int) -> dict[str, list[float]]:
    """Fresh seeds for the recommendation and for the default, paired."""
    if n < 1:
        return {}
    seeds = [10_000 + study.seed + i for i in range(n)]
    return {
        "recommended, fresh seeds": [objective(point, seed) for seed in seeds],
        "default, the same seeds": [objective(study.space.default, seed) for seed in seeds],
    }
