"""The config class: defaults, ranges, search spaces and did-you-mean, all read off one pydantic class.

A config is declared once::

    class EASEConfig(Config):
        regularization: float = knob(500.0, "L2 penalty on the weights", gt=0, low=1, high=1e5, log=True)

and the command line, the JSON Schema, the model card and the tuner (default point and search space)
all read it. Unknown keys are errors that name the nearest known key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Self, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from recengine.errors import ConfigError


@dataclass(frozen=True)
class SearchRange:
    """What a tuner may try for one field; ``when`` names the values of other fields that activate it."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()


def knob(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    log: bool = False,
    choices: Sequence[Any] | None = None,
    when: Mapping[str, Sequence[Any]] | None = None,
    **constraints: Any,
) -> Any:
    """A config field. ``ge``, ``gt``, ``le``, ``lt`` and the like bound what is valid; ``low``, ``high``,
    ``log``, ``choices`` and ``when`` say what a tuner may search (none of them: the field is not tuned).
    """
    search = None
    if low is not None or high is not None or choices is not None:
        search = SearchRange(
            low,
            high,
            log,
            tuple(choices) if choices is not None else None,
            tuple((key, tuple(values)) for key, values in (when or {}).items()),
        )
    field: Any = Field(default, description=description, **constraints)
    if search is not None:
        field.metadata.append(search)
    return field


class Config(BaseModel):
    """Base of every config: immutable, unknown keys refused, defaults validated."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )

    @classmethod
    def parse(cls, settings: Mapping[str, Any], *, where: str | Callable[[str], str] = "settings") -> Self:
        """Validate ``settings``; raises ConfigError naming the key, what was found and what was expected.

        ``where`` names the origin of the settings, or gives the origin of a dotted key.
        """
        try:
            return cls.model_validate(dict(settings))
        except ValidationError as invalid:
            raise _readable(cls, invalid, where) from None

    @classmethod
    def facts(cls) -> list[FieldFact]:
        """One FieldFact a leaf field, nested configs opened, in order of declaration."""
        return list(_leaves(cls, ()))

    @classmethod
    def search_space(cls) -> dict[str, SearchRange]:
        """The fields that a tuner may change, by name; their defaults are ``cls()``."""
        space = {}
        for name, field in cls.model_fields.items():
            search = search_of(field)
            if search is not None:
                space[name] = search
        return space


@dataclass(frozen=True)
class FieldFact:
    """What a person wants to know of one setting: dotted key, type, default, limits, description."""

    key: str
    type: str
    default: Any
    limits: str
    description: str
    search: SearchRange | None


_LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "length >=", "max_length": "length <="}


def _leaves(cls: type[BaseModel], prefix: tuple[str, ...]) -> Iterator[FieldFact]:
    for name, field in cls.model_fields.items():
        path = (*prefix, name)
        nested = nested_config(field)
        if nested is not None:
            yield from _leaves(nested, path)
            continue
        limits = [
            f"{sign} {getattr(entry, attribute)}"
            for entry in field.metadata
            for attribute, sign in _LIMITS.items()
            if getattr(entry, attribute, None) is not None
        ]
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        yield FieldFact(
            ".".join(path),
            type_name(field.annotation),
            default,
            ", ".join(limits),
            field.description or "",
            search_of(field),
        )


def nested_config(field: FieldInfo) -> type[BaseModel] | None:
    """The config class of a field that is itself a config, else None."""
    return field.annotation if _is_config(field.annotation) else None


def _is_config(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def type_name(kind: Any) -> str:
    """How a person writes the type: 'int', 'float | None', "'a' | 'b'", 'tuple[int, ...]'."""
    if kind is type(None):
        return "None"
    if get_origin(kind) is Literal:
        return " | ".join(repr(choice) for choice in get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return " | ".join(type_name(part) for part in get_args(kind))
    if get_origin(kind) is Annotated:
        return type_name(get_args(kind)[0])
    if get_origin(kind) is tuple:
        return f"tuple[{', '.join('...' if part is ... else type_name(part) for part in get_args(kind))}]"
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def search_of(field: FieldInfo) -> SearchRange | None:
    """The SearchRange that ``knob`` attached to a field, or None."""
    return next((entry for entry in field.metadata if isinstance(entry, SearchRange)), None)


def check_value(cls: type[Config], name: str, value: Any, *, where: str) -> Any:
    """``value`` as field ``name`` of ``cls`` takes it, other fields aside; raises ConfigError."""
    try:
        return TypeAdapter(cls.model_fields[name].rebuild_annotation()).validate_python(value)
    except ValidationError as invalid:
        raise ConfigError(
            f"setting '{name}' does not take this value",
            where=where,
            found=repr(value),
            expected=invalid.errors()[0]["msg"],
        ) from None


def did_you_mean(word: str, known: Sequence[str]) -> str | None:
    """The known word nearest to ``word``, or None when nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return near[0] if near else None


def _fields_at(cls: type[BaseModel], path: Sequence[Any]) -> list[str]:
    """Names of the fields of the (possibly nested) config that ``path`` leads into."""
    here: Any = cls
    for part in path:
        if _is_config(here):
            field = here.model_fields.get(part)
            here = None if field is None else field.annotation
        else:  # a key or a place inside dict[str, Config] or tuple[Config, ...]
            here = next((kind for kind in get_args(here) if _is_config(kind)), None)
    return list(here.model_fields) if _is_config(here) else []


_PYDANTIC = re.compile(r"^(Value error, |Assertion failed, |Input should be )")  # its words, not the field's


def _readable(
    cls: type[BaseModel], invalid: ValidationError, origin: str | Callable[[str], str]
) -> ConfigError:
    first, *rest = invalid.errors()
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    where = origin if isinstance(origin, str) else origin(key)
    more = f" (and {len(rest)} more)" if rest else ""
    if first["type"] == "extra_forbidden":
        known = _fields_at(cls, first["loc"][:-1])
        near = did_you_mean(path[-1], known)
        return ConfigError(
            f"unknown setting '{key}'{more}",
            where=where,
            found=key,
            expected="one of " + ", ".join(known),
            fix=f"did you mean '{'.'.join([*path[:-1], near])}'?" if near else "remove it",
        )
    said = _PYDANTIC.sub("", first["msg"])
    if first["type"] == "value_error" and _fields_at(cls, first["loc"]):  # a section's own rule was broken
        part = f" of '{key}'" if key else ""
        return ConfigError(
            f"settings{part} do not fit together{more}: {said}", where=where, fix="change one of them"
        )
    return ConfigError(
        f"setting '{key}' is not valid{more}",
        where=where,
        found=repr(first.get("input")),
        expected=said,
        fix=f"change '{key}' to a value that fits",
    )
