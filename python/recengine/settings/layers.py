"""Layers of settings: defaults < file < command line, each value remembering where it came from."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from recengine.config import Config, did_you_mean
from recengine.errors import ConfigError
from recengine.settings.tree import leaves, put
from recengine.settings.write import NULL

ConfigT = TypeVar("ConfigT", bound=Config)
_ENTRY = 3  # names of an entry of a setting: section, setting, entry


@dataclass(frozen=True)
class Origin:
    """Where a value came from: 'defaults', a file with a line, or '--set'."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass
class Layered:
    """Settings after layering. ``given``: the dotted keys that a file or the command line set."""

    values: dict[str, Any]
    given: dict[str, Origin] = field(default_factory=dict)

    def where(self, key: str) -> str:
        """The origin of ``key``: its own, else that of the nearest table below or above it."""
        for known, origin in self.given.items():
            if known == key or known.startswith(key + ".") or key.startswith(known + "."):
                return str(origin)
        return "defaults"

    def parse(self, cls: type[ConfigT]) -> ConfigT:
        """Validate against ``cls``; a ConfigError names the file and line (or '--set') of the bad key."""
        return cls.parse(self.values, where=self.where)


def layer(defaults: Mapping[str, Any], file: Path | str | None = None, sets: Sequence[str] = ()) -> Layered:
    """Put a TOML or YAML file and ``a.b=c`` settings over ``defaults``.

    Keys are not judged here (``defaults`` need not name every key): ``Layered.parse`` does that.
    Raises ConfigError naming file, line and column when the file cannot be read, and naming the
    setting when an ``a.b=c`` cannot.
    """
    settings = Layered(_copy(defaults))
    if file is not None:
        path = Path(file)
        tree, lines = read_file(path)
        for names, value in leaves(tree):
            _overlay(settings, names, value, Origin(str(path), _line_of(".".join(names), lines)))
    for text in sets:
        key, value = parse_set(text)
        for names, below in leaves({key: value}):
            _overlay(settings, (*key.split("."), *names[1:]), below, Origin(f"--set {text}"))
    return settings


def layer_over(cls: type[ConfigT], file: Path | str | None = None, sets: Sequence[str] = ()) -> ConfigT:
    """The config ``cls`` with a file and settings over its own defaults."""
    return layer({}, file, sets).parse(cls)


def _overlay(settings: Layered, names: Sequence[str], value: Any, origin: Origin) -> None:
    if value == {} and (len(names) < _ENTRY or _holds(settings.values, names)):
        return  # an empty section sets nothing; an empty entry of a setting (a feature) is an entry
    put(settings.values, names, None if value == NULL else value)
    key = ".".join(names)
    stale = [known for known in settings.given if known.startswith(key + ".") or key.startswith(known + ".")]
    for known in stale:
        del settings.given[known]
    settings.given[key] = origin


def _holds(tree: Any, names: Sequence[str]) -> bool:
    """Whether a table stands at the place that the names lead to."""
    for name in names:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return isinstance(tree, Mapping)


def _line_of(key: str, lines: Mapping[str, int]) -> int | None:
    """The line of a key, or of the table that it stands in."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key)


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copy(value) if isinstance(value, Mapping) else value for name, value in tree.items()}


_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def parse_set(text: str, option: str = "--set", example: str = "model.hidden_dim=64") -> tuple[str, Any]:
    """'a.b=c' to ('a.b', value). The value is read as TOML (1, 2.5, true, "x", [1, 2], 1979-05-27);
    what is not TOML is a string as it stands; null is None. Raises ConfigError, which names ``option`` and
    gives the ``example``, without a key or '='.
    """
    key, sign, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not sign or not _KEY.fullmatch(key):
        raise ConfigError(
            "a setting is written a.b=value" if option == "--set" else "an option is written a=b",
            where=f"{option} {text}",
            found=text,
            expected="a name, '=' and a value",
            fix=f"for example {option} {example}",
        )
    if value == NULL:
        return key, None
    if "\n" not in value:
        try:
            read = tomllib.loads(f"value = {value}")
            return key, read["value"] if read.keys() == {"value"} else value
        except tomllib.TOMLDecodeError:
            pass
    return key, value


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """A settings file as a tree, and the line of each dotted key (where it can be told)."""
    if path.suffix.lower() not in (".toml", ".yaml", ".yml"):
        near = did_you_mean(path.suffix.lower(), [".toml", ".yaml", ".yml"])
        raise ConfigError(
            "settings files are TOML or YAML",
            where=str(path),
            found=path.suffix or "no suffix",
            expected=".toml, .yaml or .yml",
            fix=f"rename it to {path.stem}{near or '.toml'}",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            "there is no such settings file", where=str(path), fix="check the path given to --config"
        ) from None
    except (OSError, UnicodeDecodeError) as unreadable:
        raise ConfigError(
            "the settings file cannot be read",
            where=str(path),
            found=f"{type(unreadable).__name__}: {unreadable}",
            expected="a readable UTF-8 text file",
        ) from None
    return _toml(text, path) if path.suffix.lower() == ".toml" else _yaml(text, path)


def _toml(text: str, path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        raise ConfigError("not valid TOML", where=str(path), found=str(wrong)) from None
    return tree, dict(_toml_lines(text))


_TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$")
_ASSIGNMENT = re.compile(r"""\s*([A-Za-z0-9_."'\- ]+?)\s*=""")


def _toml_lines(text: str) -> Iterator[tuple[str, int]]:
    """Line of each key. A reading by eye (tables and assignments); it only serves error messages."""
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE.match(line):
            table = _bare(header[1]) + "."
        elif assignment := _ASSIGNMENT.match(line):
            yield table + _bare(assignment[1]), number


def _bare(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


def _yaml(text: str, path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except yaml.YAMLError as wrong:
        mark = getattr(wrong, "problem_mark", None)
        where = str(path) if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"
        raise ConfigError(
            "not valid YAML", where=where, found=str(getattr(wrong, "problem", wrong))
        ) from None
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise ConfigError(
            "a settings file holds names and values",
            where=str(path),
            found=type(tree).__name__,
            expected="a table such as 'model: {hidden_dim: 64}'",
        )
    return _texted(tree), dict(_yaml_lines(node, ""))


def _texted(tree: dict[Any, Any]) -> dict[str, Any]:
    return {str(name): _texted(value) if isinstance(value, dict) else value for name, value in tree.items()}


def _yaml_lines(node: Any, prefix: str) -> Iterator[tuple[str, int]]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            key = prefix + str(getattr(name, "value", ""))
            yield key, name.start_mark.line + 1
            yield from _yaml_lines(value, key + ".")
