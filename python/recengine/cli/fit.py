"""``fit``: from a model's name and data to a run folder."""

from __future__ import annotations

import shlex
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recengine.cli.failures import INTERRUPTED
from recengine.cli.inputs import ConfigFile, Data, DataOptions, Model, Sets, read_for
from recengine.cli.output import Json, emit_json, note
from recengine.cli.progress import FitProgress
from recengine.cli.sections import given

if TYPE_CHECKING:
    from recengine.training import Run


def fit(
    model: Model,
    data: Data,
    data_option: DataOptions = None,
    sets: Sets = None,
    config: ConfigFile = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/MODEL-TIME.")] = None,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the latest checkpoint in --out.")
    ] = False,
    progress: Annotated[
        bool | None, typer.Option(help="Show progress on stderr; default: when it is a terminal.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Evaluate on the test part and write an HTML report here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fit MODEL on data. Settings: defaults < --config < --set; the effective ones are saved with the run.

    Ctrl-C between two steps saves a checkpoint and prints the command that goes on from it.
    """
    settings = given(model, config, sets or [])
    folder = out or Path("runs") / f"{model}-{datetime.now():%Y%m%d-%H%M%S}"
    again = _again(model, data, data_option or [], sets or [], config, folder, seed, report)
    if resume and not (folder / "checkpoints" / "latest").is_file():
        note(f"{folder}: there is no checkpoint to go on from, starting anew")
    source = read_for(model, data, data_option or [])
    from recengine.training import fit as train

    began = time.perf_counter()
    with FitProgress(f"fit {model}", shown=progress) as showing:
        try:
            run = train(
                model,
                source,
                settings=settings,
                seed=seed,
                directory=folder,
                progress=showing.listener,
                resume=resume,
            )
        except KeyboardInterrupt:
            _interrupted(folder, again)
    seconds = time.perf_counter() - began
    _remember(folder, data, data_option or [], again)
    told = _report(run, seconds)
    if report is not None:
        from recengine.reports import write

        told["report"] = str(write(run, report, data_name=Path(data).name))
    if as_json:
        emit_json(told)
    else:
        _print(told)


def _again(
    model: str,
    data: str,
    options: list[str],
    sets: list[str],
    config: Path | None,
    folder: Path,
    seed: int,
    report: Path | None,
) -> str:
    """The command line that goes on with this run."""
    from recengine.hooks import host

    words = ["recengine", *(word for file in host().files for word in ("--plugin", str(file)))]
    words += ["fit", model, "--data", data]
    for option in options:
        words += ["--data-option", option]
    for text in sets:
        words += ["--set", text]
    if config is not None:
        words += ["--config", str(config)]
    words += ["--seed", str(seed)] if seed else []
    words += ["--report", str(report)] if report is not None else []
    return shlex.join([*words, "--out", str(folder), "--resume"])


def _interrupted(folder: Path, again: str) -> None:
    saved = (folder / "checkpoints" / "latest").is_file()
    note("interrupted" + ("; go on with:" if saved else " before the first checkpoint; start again with:"))
    note("  " + (again if saved else again.removesuffix(" --resume")))
    raise typer.Exit(INTERRUPTED) from None


def _remember(folder: Path, data: str, options: list[str], again: str) -> None:
    """source.json: where the data came from, for ``recengine reproduce``."""
    from recengine.files import write_json

    path = Path(data).expanduser()
    where = str(path.resolve()) if path.exists() else data
    write_json(folder / "source.json", {"data": where, "options": options, "command": again})


def _report(run: Run, seconds: float) -> dict[str, Any]:
    validation = None
    if run.split.validation is not None:
        validation = {
            metric: {"mean": mean, "low": low, "high": high, "n": n}
            for metric, mean, low, high, n in run.evaluate("validation").summary()
        }
    return {
        "run": str(run.directory),
        "model": run.name,
        "seed": run.seed,
        "seconds": round(seconds, 3),
        "epochs": len(run.history),
        "validation": validation,
        "findings": run.findings,
    }


def _print(report: dict[str, Any]) -> None:
    typer.echo(report["run"])
    for finding in report["findings"]:
        if finding.severity != "info":
            note(f"audit, {finding.severity}: {finding.check}: {finding.message}")
    n = report["epochs"]
    epochs = f", {n} epoch{'s' * (n > 1)}" if n else ""
    note(f"fitted {report['model']} in {report['seconds']:.1f} s{epochs}")
    for metric, row in (report["validation"] or {}).items():
        if metric.startswith(("ndcg@", "hr@", "recall@", "auc", "gauc", "log_loss")):
            note(f"  validation {metric} {row['mean']:.4f}")
    if "report" in report:
        note(f"report: {report['report']}")
    note(f"next: recengine evaluate {shlex.quote(report['run'])}")
