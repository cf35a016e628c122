"""What the user sees when something fails, and what the process exits with."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from recengine.errors import DataWarning, PluginError, PluginWarning, RecengineError

INTERRUPTED = 130  # 128 + SIGINT, what shells expect

_SYSTEM = {
    errno.ENOSPC: ("the disk is full", "free some space or choose another folder with --out"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or choose another folder with --out"),
    errno.EFBIG: ("a file would be larger than is allowed here", "raise the limit (ulimit -f)"),
    errno.EACCES: ("permission denied", "choose a place that you may read and write"),
    errno.EPERM: ("permission denied", "choose a place that you may read and write"),
    errno.EROFS: ("the file system is read-only", "choose another folder with --out"),
    errno.ENOENT: ("there is no such file or folder", "check the path"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "check the path"),
    errno.EISDIR: ("this is a folder, not a file", "check the path"),
}


@contextmanager
def explained(*, as_json: bool) -> Iterator[None]:
    """Turn what is raised inside into a message on stderr and an exit code.

    RECENGINE_TRACEBACK=1 lets everything through as it was raised. With ``as_json`` the message is
    one JSON object.
    """
    with _plain_warnings():
        if os.environ.get("RECENGINE_TRACEBACK") == "1":
            yield
            return
        try:
            yield
        except RecengineError as known:
            raise _stop(known, known.exit_code, as_json) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except OSError as failed:
            if failed.errno == errno.EPIPE:
                raise
            raise _stop(from_system(failed), 2 if failed.errno in _SYSTEM else 1, as_json) from None
        except MemoryError:
            full = RecengineError(
                "the machine is out of memory", fix="a smaller model.batch_size, or fewer columns"
            )
            raise _stop(full, 1, as_json) from None
        except Exception as unexpected:
            if type(unexpected).__module__.partition(".")[0] in ("click", "typer"):
                raise
            found = _in_a_plugin(unexpected)
            if found is not None:
                raise _stop(found, found.exit_code, as_json) from None
            bug = RecengineError(
                f"unexpected {type(unexpected).__name__}: {unexpected}",
                fix="run it again with RECENGINE_TRACEBACK=1 to see where it comes from",
            )
            raise _stop(bug, 1, as_json) from None


def _in_a_plugin(unexpected: Exception) -> PluginError | None:
    """The error as that of the plugin whose code it comes from, or None."""
    hooks = sys.modules.get("recengine.hooks")
    if hooks is None:
        return None
    homes = {}
    for name, plugin in hooks.host().manager.list_name_plugin():
        file = Path(getattr(plugin, "__file__", None) or "-")
        homes[file.parent if file.name == "__init__.py" else file] = name
    for frame in reversed(traceback.extract_tb(unexpected.__traceback__)):
        path = Path(frame.filename)
        name = next((homes[place] for place in (path, *path.parents) if place in homes), None)
        if name is not None:
            return PluginError(
                f"the plugin '{name}' failed: {type(unexpected).__name__}: {unexpected}",
                where=f"{path}, line {frame.lineno}",
                fix="RECENGINE_TRACEBACK=1 shows how it was called",
            )
    return None


def from_system(failed: OSError) -> RecengineError:
    """An error of the operating system in plain words, with the path it is about."""
    problem, fix = _SYSTEM.get(failed.errno or 0, (failed.strerror or str(failed), None))
    return RecengineError(problem, where=str(failed.filename) if failed.filename else None, fix=fix)


def _stop(error: RecengineError, code: int, as_json: bool) -> typer.Exit:
    if as_json:
        fields = {"problem": error.problem, "where": error.where, "found": error.found}
        fields |= {"expected": error.expected, "fix": error.fix}
        given = {name: str(value) for name, value in fields.items() if value is not None}
        typer.echo(json.dumps({"error": type(error).__name__, "exit_code": code, **given}), err=True)
    else:
        typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
        typer.echo(error.render(), err=True)
    return typer.Exit(code)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """The engine's own warnings as one line on stderr; all other warnings as they were."""
    standard = warnings.showwarning

    def show(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, PluginWarning | DataWarning):
            sys.stderr.write(f"warning: {message}\n")
        else:
            standard(message, category, *rest, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = standard
