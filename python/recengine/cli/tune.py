"""``tune``: search the settings of a model, starting from its defaults."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recengine.cli.failures import INTERRUPTED
from recengine.cli.inputs import ConfigFile, Data, DataOptions, Model, Sets
from recengine.cli.output import Json, note
from recengine.cli.search_space import search_space, start_within
from recengine.cli.sections import effective
from recengine.cli.sections import given as given_settings
from recengine.cli.tune_objective import (
    FitObjective,
    WatchedObjective,
    check_judgeable,
    data_of,
    items_of,
    metric_of,
    what_values_depend_on,
)
from recengine.cli.tune_report import conclude
from recengine.cli.tuner_settings import tuner_config
from recengine.cli.workers import worker_pool
from recengine.errors import UsageError

if TYPE_CHECKING:
    from recengine.tuning import Concluded, Study, Trial


def tune(
    model: Model,
    data: Data,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, the default settings first.")] = 50,
    tuner: Annotated[str, typer.Option(help="Name of a registered tuner.")] = "bonsai",
    tuner_set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A setting of the tuner (repeatable); a study keeps to those it began with.",
        ),
    ] = None,
    default_repeats: Annotated[
        int,
        typer.Option(
            min=1,
            help="Trials of the default settings, each under a seed of its own, before any other; 2 or 3 "
            "tell the tuner the noise.",
        ),
    ] = 1,
    study: Annotated[Path, typer.Option(help="File of the study; an existing one goes on.")] = Path(
        "study.db"
    ),
    name: Annotated[
        str | None, typer.Option(help="Name of the study in the file; default: the model's.")
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(
            metavar="FILE[#NAME]",
            help="Tell the tuner the trials of another study of the same model and data, once.",
        ),
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
    confirmations: Annotated[
        int,
        typer.Option(
            min=0,
            max=3,
            help="Trials after the search that measure the tuner's recommendation, if it was not measured.",
        ),
    ] = 2,
    confirm: Annotated[
        int,
        typer.Option(
            min=0,
            help="Fits of the recommendation and of the default at the end, under the same fresh seeds.",
        ),
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

    start = effective(model, config, sets or [])
    metric = metric_of(model, metric, start)
    policy_config, policy_changed = tuner_config(tuner, tuner_set or [])
    # bad data fails here: before there is a study, not in every trial
    found = data_of(model, data, tuple(data_option or ()))
    n_items = items_of(found)
    start = start_within(start, model, given_settings(model, config, sets or []), n_items)
    space = search_space(model, start, only, fix or [], ranges or [], cost or [], limit or [], n_items)
    about = what_values_depend_on(model, found, start, space.names)
    entry = host().registries["tuner"].get(tuner)
    policy = entry.load()(policy_config, space, seed)
    made = Study.open(
        study, name or model, space, policy, seed=seed, objectives=(metric,), about=about,
        default_repeats=default_repeats, settings={f"tuner {tuner}": policy_changed},
    )  # fmt: skip
    if warm_start is not None:
        _warm(made, warm_start)
    kind = FitObjective if to_the_end else WatchedObjective
    objective = kind(model, data, tuple(data_option or ()), start, metric)
    if judge:
        check_judgeable(objective)
    stale = made.file.give_up(made.name)
    if stale:
        note(f"lost: trials {', '.join(map(str, stale))}, whose process ended or was silent for a day")
    before = len(made.searched())
    if before:
        note(f"{study}: going on after {before} of {trials} trials")
    try:
        concluded = _run(made, objective, trials, workers, confirmations)
    except KeyboardInterrupt:
        note(f"interrupted; what has ended is kept in {study}, the same command goes on")
        raise typer.Exit(INTERRUPTED) from None
    given = [*(["--config", str(config)] if config else []), *(f"--set={one}" for one in sets or [])]
    conclude(made, concluded, objective, confirm, judge, report, as_json, given)


def _warm(study: Study, text: str) -> None:
    from recengine.tuning import StudyFile

    path, _, name = text.partition("#")
    if not Path(path).is_file():
        raise UsageError("there is no such study file", where="--warm-start", found=path)
    note(f"{study.warm_start(StudyFile(Path(path)), name or study.name)} trials copied from {path}")


def _run(study: Study, objective: FitObjective, trials: int, workers: int, confirmations: int) -> Concluded:
    """Search, then conclude; trials of both run side by side in processes where there are several workers."""
    from recengine.tuning import conclude as concluded

    def told(trial: Trial) -> None:
        known = study.ended()
        values = [t.values[0] for t in known if t.values and t.feasible]
        ended = next(t for t in known if t.number == trial.number)
        why = ": " + ended.note.splitlines()[0] if ended.state == "failed" and ended.note else ""
        how = (
            f"  {ended.values[0]:.4f}"
            if ended.values and ended.state == "done"
            else f"  ({ended.state}{why})"
        )
        at = f"trial {len(study.searched())}/{trials}"
        if ended.confirmation:
            at = f"confirmation {len(study.confirmations())}/{confirmations}"
        best = f"  best {study.objectives[0]} {max(values):.4f}" if values else ""
        note(f"{at}{how}{best}")

    with worker_pool(workers) if workers > 1 else nullcontext() as pool:
        study.run(objective, trials, executor=pool, workers=workers, finished=told)
        missing = trials - len(study.searched())
        if missing > 0:
            note(
                f"{missing} of {trials} trials are under way in other processes; what follows is without them"
            )
        spent = 0 if missing > 0 else confirmations  # the last process to end confirms
        return concluded(study, objective, confirmations=spent, executor=pool, finished=told)
