"""Search spaces: what a tuner may change, where it starts, and the unit cube that policies work in.

A space is read off a model's config (``Space.of_config``) or written by hand; it knows the default point,
which every default-aware policy prunes toward.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, pairwise
from operator import attrgetter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recengine.config import Config, SearchRange, check_value, did_you_mean
from recengine.errors import ConfigError

Kind = Literal["float", "int", "choice"]
_OFF = 0.05


@dataclass(frozen=True)
class Parameter:
    """One knob. float and int have low <= high (log: searched on the logarithmic scale); choice has choices.

    off: 0 belongs to a logarithmic range as well (a penalty that may be switched off); it has the lowest
    twentieth of the unit interval, the range itself the rest.

    when: values of other parameters that make this one matter; otherwise it stays at its default.
    cost: of changing it away from the default (finite, above 0), for policies that weigh changes.
    """

    name: str
    kind: Kind
    default: Any
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    cost: float = 1.0
    off: bool = False

    def __post_init__(self) -> None:
        where = f"parameter '{self.name}'"
        if not (math.isfinite(self.cost) and self.cost > 0):
            raise ConfigError(
                "a change must cost something", where=where, found=self.cost, expected="a finite cost above 0"
            )
        if self.kind == "choice":
            if not self.choices:
                raise ConfigError("a choice needs choices", where=where)
            if len({_kept(value, where) for value in self.choices}) != len(self.choices):
                raise ConfigError("a choice is listed twice", where=where, found=list(self.choices))
        elif not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(
                "the range is empty or infinite",
                where=where,
                found=f"[{self.low}, {self.high}]",
                expected="two finite ends, the lower first",
            )
        elif self.kind == "int" and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise ConfigError(
                "the ends of a range of integers must be integers",
                where=where,
                found=f"[{self.low}, {self.high}]",
                expected=f"[{math.ceil(self.low)}, {math.floor(self.high)}]",
            )
        elif self.log and self.low <= 0:
            raise ConfigError(
                "a logarithmic range must be positive", where=where, found=f"[{self.low}, {self.high}]"
            )
        if self.off and not self.log:
            raise ConfigError("only a logarithmic range is switched off by 0", where=where)
        if not self.contains(self.default):
            raise ConfigError(
                "the default lies outside the space",
                where=where,
                found=repr(self.default),
                expected=f"one of {list(self.choices)}" if self.choices else f"{self.low} to {self.high}",
                fix="widen the range, or set another default",
            )

    def contains(self, value: Any) -> bool:
        if self.kind == "choice":
            return _key(value) in {_key(choice) for choice in self.choices}
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        if self.off and value == 0:
            return True
        inside = self.low * (1 - 1e-12) - 1e-300 <= value <= self.high * (1 + 1e-12) + 1e-300
        return inside and (self.kind == "float" or float(value).is_integer())

    def restored(self, value: Any) -> Any:
        """The choice that a study's file kept as ``value`` (a tuple comes back as a list); else ``value``."""
        if self.kind != "choice" or self.contains(value):
            return value
        kept = _kept(value, self.name)
        return next((choice for choice in self.choices if _kept(choice, self.name) == kept), value)

    @property
    def width(self) -> int:
        """Columns in the unit cube: one, or one a choice when there are more than two."""
        return len(self.choices) if self.kind == "choice" and len(self.choices) > 2 else 1

    @cached_property
    def _default_column(self) -> float:
        return float(self.encode(self.default)[0])

    def encode(self, value: Any) -> NDArray[np.float64]:
        """Unit-cube columns of a value."""
        if self.kind == "choice":
            at = [_key(choice) for choice in self.choices].index(_key(value))
            if self.width == 1:
                return np.array([float(at)])
            return np.asarray(np.eye(self.width)[at])
        if self.off and value == 0:
            return np.zeros(1)
        low, high, x = (math.log(v) if self.log else float(v) for v in (self.low, self.high, value))
        share = min(1.0, max(0.0, (x - low) / (high - low)))
        return np.array([_OFF + (1 - _OFF) * share if self.off else share])

    def decode(self, columns: NDArray[np.float64]) -> Any:
        """The nearest value; the default's own encoding gives back exactly the default."""
        if self.kind == "choice":
            at = int(np.argmax(columns)) if self.width > 1 else int(columns[0] >= 0.5)
            return self.choices[min(at, len(self.choices) - 1)]
        if abs(float(columns[0]) - self._default_column) <= 1e-9:
            return self.default
        share = float(np.clip(columns[0], 0, 1))
        if self.off:
            if share < _OFF:
                return type(self.default)(0)
            share = (share - _OFF) / (1 - _OFF)
        low, high = (math.log(v) if self.log else float(v) for v in (self.low, self.high))
        x = low + share * (high - low)
        x = math.exp(x) if self.log else x
        x = {0.0: self.low, 1.0: self.high}.get(share, x)  # an end of the range is met exactly
        return (
            int(min(self.high, max(self.low, round(x))))
            if self.kind == "int"
            else min(self.high, max(self.low, x))
        )


@dataclass(frozen=True)
class LinearLimit:
    """sum_j coefficients[j] x_j <= at_most, on numeric parameters in their own units."""

    coefficients: tuple[tuple[str, float], ...]
    at_most: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.at_most, *(factor for _, factor in self.coefficients)))):
            raise ConfigError(
                "a linear limit needs finite numbers",
                where="limits",
                found=str(self),
                expected="SUM <= NUMBER",
            )

    @property
    def factors(self) -> dict[str, float]:
        """The factor of each parameter, repeated terms added up, without those that cancel."""
        total: dict[str, float] = {}
        for name, factor in self.coefficients:
            total[name] = total.get(name, 0.0) + factor
        return {name: factor for name, factor in total.items() if factor != 0}

    def __str__(self) -> str:
        terms = " + ".join(
            name if factor == 1 else f"{factor:g}*{name}" for name, factor in self.coefficients
        )
        return f"{terms} <= {self.at_most:g}"

    def value(self, point: Mapping[str, Any]) -> float:
        return sum(factor * float(point[name]) for name, factor in self.coefficients)

    def holds(self, point: Mapping[str, Any]) -> bool:
        return self.value(point) <= self.at_most + 1e-9


@dataclass(frozen=True)
class Space:
    """Parameters in order, and linear limits among them. fixed: values of settings that are not searched and
    that a parameter's ``when`` names."""

    parameters: tuple[Parameter, ...]
    limits: tuple[LinearLimit, ...] = ()
    fixed: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        names = [parameter.name for parameter in self.parameters]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ConfigError("parameters share a name", where="search space", found=", ".join(repeated))
        if not names:
            raise ConfigError("nothing is left to tune", where="search space", fix="free at least one knob")
        known = {*names, *(name for name, _ in self.fixed)}
        for parameter in self.parameters:
            for other, _ in parameter.when:
                if other not in known:
                    raise ConfigError(
                        f"it depends on '{other}', of which nothing is known",
                        where=f"parameter '{parameter.name}'",
                        expected="a parameter of the space, or a fixed value",
                        fix=f"Space(..., fixed=(('{other}', VALUE),))",
                    )
        numeric = {p.name for p in self.parameters if p.kind != "choice"}
        for limit in self.limits:
            for name, _ in limit.coefficients:
                if name not in numeric:
                    raise ConfigError(
                        f"a linear limit names '{name}', which is no numeric parameter",
                        where="limits",
                        expected=", ".join(sorted(numeric)),
                    )
        broken = [limit for limit in self.limits if not limit.holds(self.default)]
        if broken:
            total = broken[0].value(self.default)
            raise ConfigError(
                "the default violates a linear limit",
                where=f"limits: {broken[0]}",
                found=f"{total:g} at the default",
                expected=f"at most {broken[0].at_most:g}",
                fix="change the limit or the default",
            )

        pair = next((two for two in combinations(self.limits, 2) if _equality(*two)), None)
        if pair is not None:
            raise ConfigError(
                "two linear limits make an equality, which is not supported",
                where="limits",
                found=f"{pair[0]} and {pair[1]}",
                expected="limits with room between them",
                fix="leave out one of their parameters and compute it from the others in the objective",
            )

    @classmethod
    def of_config(
        cls,
        config: type[Config],
        *,
        default: Mapping[str, Any] | None = None,
        only: Sequence[str] | None = None,
        fixed: Sequence[str] = (),
        ranges: Mapping[str, tuple[float, float] | SearchRange] | None = None,
        costs: Mapping[str, float] | None = None,
        prefix: str = "",
        limits: Sequence[LinearLimit] = (),
    ) -> Space:
        """The space that a config declares: default ``config(**default)``, knobs with their ranges.

        only / fixed: keep these knobs / leave those at their default. ranges: narrow or widen a knob (two
        ends: on the scale that was declared; SearchRange: as it says), or make one of a setting that declares
        no range. costs: of change. prefix is put before every name ('model.').
        """
        instance = config.parse(default or {}, where="default point")
        declared = config.search_space()
        for name, asked in (ranges or {}).items():
            if name in config.model_fields:
                declared[name] = _asked(config, name, asked, declared.get(name))
        for name in [*(only or ()), *fixed, *(ranges or {}), *(costs or {})]:
            if name not in declared:
                near = did_you_mean(name, list(declared))
                raise ConfigError(
                    f"there is no tunable setting '{name}'",
                    where="search space",
                    expected="one of " + ", ".join(declared),
                    fix=f"did you mean '{near}'?" if near else None,
                )
        searched = [name for name in declared if (only is None or name in only) and name not in fixed]
        made = []
        for name in searched:
            search, value = declared[name], getattr(instance, name)
            cost = (costs or {}).get(name, 1.0)
            when = tuple(
                (prefix + other, values)
                for other, values in search.when
                # what a value that is not searched grants for good is no condition
                if other in searched or attrgetter(other)(instance) not in values
            )
            if search.choices is not None:
                made.append(
                    Parameter(prefix + name, "choice", value, choices=search.choices, when=when, cost=cost)
                )
                continue
            low, high = search.low, search.high
            if low is None or high is None:
                raise ConfigError(
                    "a range needs both ends", where=f"setting '{name}'", found=f"[{low}, {high}]"
                )
            kind: Kind = "int" if isinstance(value, int) and not isinstance(value, bool) else "float"
            off = search.log and value == 0  # declared as a logarithm, switched off by default
            ends = float(low), float(high)
            made.append(Parameter(prefix + name, kind, value, *ends, search.log, (), when, cost, off))
        parents = {
            other: attrgetter(other.removeprefix(prefix))(instance)
            for parameter in made
            for other, _ in parameter.when
            if other.removeprefix(prefix) not in searched
        }
        return cls(tuple(made), tuple(limits), tuple(parents.items()))

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def default(self) -> dict[str, Any]:
        return {parameter.name: parameter.default for parameter in self.parameters}

    @property
    def width(self) -> int:
        return sum(parameter.width for parameter in self.parameters)

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Columns of each parameter in the unit cube."""
        ends = np.cumsum([0, *(parameter.width for parameter in self.parameters)])
        return tuple(tuple(range(a, b)) for a, b in pairwise(ends))

    def encode(self, point: Mapping[str, Any]) -> NDArray[np.float64]:
        """Unit-cube row [width]."""
        return np.concatenate([parameter.encode(point[parameter.name]) for parameter in self.parameters])

    def decode(self, row: NDArray[np.float64]) -> dict[str, Any]:
        """The nearest point; parameters that do not matter there are put back to their default."""
        return self.settle(
            {
                p.name: p.decode(row[list(columns)])
                for p, columns in zip(self.parameters, self.groups, strict=True)
            }
        )

    def restored(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """``point`` as a study's file keeps it, with the choices of this space."""
        known = {parameter.name: parameter for parameter in self.parameters}
        return {
            name: known[name].restored(value) if name in known else value for name, value in point.items()
        }

    def settle(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """``point`` with every inactive parameter at its default, parents before what depends on them."""
        settled, fixed = dict(point), dict(self.fixed)
        for parameter in self._parents_first:
            if not all(settled.get(other, fixed.get(other)) in values for other, values in parameter.when):
                settled[parameter.name] = parameter.default
        return settled

    @cached_property
    def _parents_first(self) -> tuple[Parameter, ...]:
        """The parameters, each after those that its condition names; as they are where these go round."""
        waiting, ordered = list(self.parameters), []
        while waiting:
            names = {parameter.name for parameter in waiting}
            ready = [p for p in waiting if not any(other in names for other, _ in p.when)] or waiting[:1]
            ordered += ready
            waiting = [parameter for parameter in waiting if parameter not in ready]
        return tuple(ordered)

    def check(self, point: Mapping[str, Any], *, where: str = "point") -> None:
        """Raises ConfigError for missing, unknown or out-of-range values, and for a broken limit."""
        for name in point:
            if name not in self.names:
                near = did_you_mean(name, self.names)
                raise ConfigError(
                    f"unknown parameter '{name}'",
                    where=where,
                    fix=f"did you mean '{near}'?" if near else None,
                )
        for parameter in self.parameters:
            if parameter.name not in point:
                raise ConfigError(f"parameter '{parameter.name}' is missing", where=where)
            if not parameter.contains(point[parameter.name]):
                raise ConfigError(
                    f"'{parameter.name}' lies outside the space",
                    where=where,
                    found=repr(point[parameter.name]),
                )
        for limit in self.limits:
            if not limit.holds(point):
                raise ConfigError(
                    "a linear limit is broken",
                    where=where,
                    found=f"{limit.value(point):g} at {dict(point)}",
                    expected=str(limit),
                )

    def allows(self, point: Mapping[str, Any]) -> bool:
        """Whether the linear limits hold."""
        return all(limit.holds(point) for limit in self.limits)

    def changed(self, point: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the parameters that differ from the default (numbers: beyond 1e-9 of the range)."""
        names = []
        for parameter in self.parameters:
            if point[parameter.name] == parameter.default:
                continue
            ours, theirs = parameter.encode(point[parameter.name]), parameter.encode(parameter.default)
            if np.abs(ours - theirs).max() > 1e-9:
                names.append(parameter.name)
        return tuple(names)

    def restarted(self, default: Mapping[str, Any]) -> Space:
        """The same space around another default point."""
        self.check(default, where="default point")
        return replace(self, parameters=tuple(replace(p, default=default[p.name]) for p in self.parameters))

    def fingerprint(self) -> str:
        """Hash of everything that decides whether two studies can share trials. Costs and conditions are left
        out: they say what is tried next, not what a trial measured."""
        return self._hash(float)

    @property
    def former_fingerprint(self) -> str:
        """The same as files from before 24 November 2026 have it, which told 0 from 0.0."""
        return self._hash(lambda number: number)

    def _hash(self, end: Callable[[float], float]) -> str:
        no_condition = "()"  # files from before conditions were left out can be gone on with
        facts = [
            [p.name, p.kind, end(p.low), end(p.high), p.log, list(map(_key, p.choices)), no_condition]
            + (["off"] if p.off else [])
            for p in self.parameters
        ] + [
            [[(name, end(factor)) for name, factor in limit.coefficients], end(limit.at_most)]
            for limit in self.limits
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def described(self) -> dict[str, dict[str, Any]]:
        """What a study's file keeps of each parameter, beside the fingerprint: to start from, and to say what
        differs."""
        return {
            p.name: {
                "kind": p.kind, "default": p.default, "low": float(p.low), "high": float(p.high),
                "log": p.log, "choices": list(p.choices), "off": p.off,
                "limits": [str(limit) for limit in self.limits if p.name in limit.factors],
            }
            for p in self.parameters
        }  # fmt: skip


def _equality(first: LinearLimit, second: LinearLimit) -> bool:
    """Whether the two bound one sum from both sides by the same number."""
    ours, theirs = first.factors, second.factors
    if not ours or ours.keys() != theirs.keys():
        return False
    name = next(iter(ours))
    scale = -theirs[name] / ours[name]
    room = second.at_most + scale * first.at_most
    same = all(math.isclose(-theirs[other], scale * factor) for other, factor in ours.items())
    return scale > 0 and same and abs(room) <= 1e-9 * max(1.0, abs(second.at_most))


def _asked(
    config: type[Config], name: str, asked: tuple[float, float] | SearchRange, declared: SearchRange | None
) -> SearchRange:
    """What a user wants a setting to be searched in, each end and choice valid on its own."""
    if not isinstance(asked, SearchRange):
        asked = replace(declared or SearchRange(), low=asked[0], high=asked[1], choices=None)
    elif declared is not None:
        asked = replace(asked, when=declared.when)
    where = f"range of '{name}'"
    if asked.choices is not None:
        taken = tuple(check_value(config, name, value, where=where) for value in asked.choices)
        return replace(asked, choices=taken)
    default = config.model_fields[name].get_default(call_default_factory=True)
    if not isinstance(default, (int, float)) or isinstance(default, bool):
        raise ConfigError(
            f"setting '{name}' has no order",
            where=where,
            found=f"{asked.low}:{asked.high}",
            expected="a list of choices",
            fix=f"{name}=A,B",
        )
    for end in (asked.low, asked.high):
        if end is not None:
            check_value(
                config,
                name,
                int(end) if isinstance(default, int) and float(end).is_integer() else end,
                where=where,
            )
    return asked


def _kept(value: Any, where: str) -> str:
    """A choice as a study's file keeps it."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        raise ConfigError(
            "a study's file cannot keep this choice",
            where=where,
            found=f"{value!r}, a {type(value).__name__}",
            expected="None, True, False, a number or a text of Python's own, or a tuple of these",
            fix="name the choices by texts, and look them up in the objective",
        ) from None


def _key(value: Any) -> str:
    """A choice by type and value: True and 1 are different choices."""
    return f"{type(value).__name__}:{value!r}"
