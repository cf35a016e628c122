"""``recengine plugins new``: writes a complete plugin project that passes its own tests.

The templates are plain files below ``templates/``: ``common`` for every project, then the folder of the
kind. ``$name`` and the like are filled in by string.Template, in paths as well (NAME, PACKAGE).
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from recengine.config import did_you_mean
from recengine.errors import UsageError
from recengine.hooks import host

KINDS = ("model", "loss", "metric", "dataset", "tuner", "recourse", "command")
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True)
class Project:
    """What was written: the project's folder, its files, the name of its Python package."""

    folder: Path
    files: list[str]
    package: str


def write_project(name: str, kind: str, out: Path) -> Project:
    """Write the project ``recengine-NAME`` below ``out``, whole or not at all.

    name: what users will write; lower-case words joined by '_'. Raises UsageError for an unknown kind, a
    name that is no such name or is registered already, or a folder that is there already.
    """
    _check(name, kind)
    folder = out / f"recengine-{name.replace('_', '-')}"
    if folder.exists():
        raise UsageError("there is such a folder already", where=str(folder), fix="choose another --out")
    words = _words(name, kind)
    contents = {path: text for part in ("common", kind) for path, text in _filled(_templates(part), words)}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{folder.name}.") as unfinished:
        made = Path(unfinished) / folder.name
        for path, text in contents.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_text(text, encoding="utf-8")
        made.rename(folder)
    return Project(folder, sorted(contents), words["package"])


def _check(name: str, kind: str) -> None:
    if kind not in KINDS:
        near = did_you_mean(kind, KINDS)
        raise UsageError(
            f"there is no template for the kind '{kind}'",
            where="--kind",
            expected="one of " + ", ".join(KINDS),
            fix=f"did you mean '{near}'?" if near else None,
        )
    if not _NAME.fullmatch(name):
        raise UsageError(
            "not a name for a plugin",
            where="NAME",
            found=repr(name),
            expected="lower-case words joined by '_', a letter first",
            fix=f"for example: recengine plugins new {_near(name)}",
        )
    if name in host().registries[kind]:
        taken = host().registries[kind].get(name).plugin
        raise UsageError(
            f"there is a {kind} '{name}' already", found=f"plugin '{taken}'", fix="choose another name"
        )


def _words(name: str, kind: str) -> dict[str, str]:
    from recengine import __version__

    camel = "".join(word.capitalize() for word in name.split("_"))
    return {
        "name": name,
        "kind": kind,
        "title": name.replace("_", " ").capitalize(),
        "Class": camel,
        "package": f"recengine_{name}",
        "distribution": f"recengine-{name.replace('_', '-')}",
        "version": __version__.partition("+")[0],
    }


def _templates(part: str) -> Traversable:
    return files("recengine.testing") / "templates" / part


def _filled(folder: Traversable, words: dict[str, str], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        path = prefix + entry.name.replace("PACKAGE", words["package"]).replace("NAME", words["name"])
        if entry.is_dir():
            found += _filled(entry, words, path + "/")
        elif entry.name.endswith(".tmpl"):
            text = Template(entry.read_text(encoding="utf-8")).substitute(words)
            found.append((path.removesuffix(".tmpl"), text))
    return found


def _near(name: str) -> str:
    """The name that was meant, where the words of ``name`` make one."""
    words = "_".join(re.findall(r"[a-z][a-z0-9]*", name.lower()))
    return words if _NAME.fullmatch(words) else "late_night_taste"
