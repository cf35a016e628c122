"""What a person can change, and at what cost: read from a file, checked, compiled to arrays.

The file (TOML or YAML) names features; those it does not name are free and cost 1 a unit. A change of delta
units at cost c costs (c delta)^2 in the squared and c |delta| in the absolute cost; a category always costs
c for each of the two indicator columns that change::

    [features.age]
    direction = "up"
    [features.gender]
    immutable = true
    [features.income]
    range = [0, 200000]
    cost = 0.0005
    [features.rooms]
    allowed = [1, 2, 3, 4]
    [features.children]
    integer = true
    [groups.housing]
    features = ["housing_own", "housing_rent"]
    [[linked]]                       # a year of tenure is a year of age
    feature = "tenure"
    moves = "age"
    ratio = 1.0
    [[linear]]                       # coefficients . x <= at_most
    coefficients = { debt = 1.0, credit = 1.0 }
    at_most = 50000
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from recengine.config import Config, did_you_mean, knob
from recengine.errors import ConfigError


class FeatureRule(Config):
    """What may happen to one feature."""

    immutable: bool = knob(False, "never changes")
    direction: Literal["any", "up", "down"] = knob("any", "which way it may move")
    range: tuple[float, float] | None = knob(None, "least and greatest value")
    allowed: tuple[float | str, ...] | None = knob(None, "the only values or levels it may take")
    integer: bool = knob(False, "whole numbers only (a fraction that is there may stay)")
    cost: float | None = knob(None, "cost of one unit of change; None: the unit of the column", gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> FeatureRule:
        if self.range is not None and self.range[0] > self.range[1]:
            raise ValueError(f"range runs backwards: {self.range}")
        if self.allowed is not None and not self.allowed:
            raise ValueError("allowed lists no value")
        return self


class GroupRule(Config):
    """Features of which exactly one is 1 and the others 0 (a category)."""

    features: tuple[str, ...] = knob((), "the indicator columns of the category", min_length=2)


class LinkRule(Config):
    """When ``feature`` moves by one, ``moves`` moves by ``ratio``."""

    feature: str = knob(..., "the feature that is chosen")
    moves: str = knob(..., "the feature that follows")
    ratio: float = knob(1.0, "units that follow one unit")


class LinearRule(Config):
    """coefficients . x <= at_most."""

    coefficients: dict[str, float] = knob(..., "factor of each feature")
    at_most: float = knob(..., "upper limit")


class ConstraintFile(Config):
    """The whole file."""

    features: dict[str, FeatureRule] = knob({}, "rules by feature")
    groups: dict[str, GroupRule] = knob({}, "categories")
    linked: tuple[LinkRule, ...] = knob((), "features that move together")
    linear: tuple[LinearRule, ...] = knob((), "linear limits")


@dataclass(frozen=True)
class Constraints:
    """Compiled for ``names``: arrays of length d, categories as index arrays, linear rows.

    lower, upper: absolute range. direction: -1, 0, +1. immutable: bool. cost: float64.
    allowed: feature -> sorted values. groups: index arrays. A x <= b; links (i, j, ratio).
    """

    names: tuple[str, ...]
    immutable: NDArray[np.bool_]
    direction: NDArray[np.int8]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    cost: NDArray[np.float64]
    allowed: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    groups: tuple[NDArray[np.int64], ...] = ()
    links: tuple[tuple[int, int, float], ...] = ()
    A: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    b: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    integer: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    group_names: tuple[str, ...] = ()

    @property
    def is_box(self) -> bool:
        """Whether nothing but bounds on single features is asked for."""
        return not (self.discrete or self.links or self.A.shape[0])

    @property
    def discrete(self) -> bool:
        """Whether some feature jumps: a category, allowed values, whole numbers."""
        return bool(self.allowed or self.groups or self.integer.any())

    @property
    def indicator(self) -> NDArray[np.bool_]:
        """Which features are columns of a category."""
        mask = np.zeros(len(self.names), bool)
        for group in self.groups:
            mask[group] = True
        return mask

    def bounds(self, people: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Least and greatest value [N, d] that each person may reach.

        A person outside the range of a feature may stay there and may move toward the range.
        """
        low, high = np.minimum(self.lower, people), np.maximum(self.upper, people)
        for held, bound in ((self.direction > 0, low), (self.direction < 0, high)):
            stay = np.flatnonzero(held | self.immutable)
            bound[:, stay] = people[:, stay]
        return low, high

    def thing(self, i: int) -> str:
        """The name a person knows feature i by: its category, or itself."""
        for group, name in zip(self.groups, self.group_names, strict=False):
            if i in group:
                return name
        return self.names[i]

    @property
    def labels(self) -> tuple[str, ...]:
        """One label for each rule that could be lifted, in the words of the file."""
        made: list[str] = []
        for i in range(len(self.names)):
            thing = self.thing(i)
            if self.immutable[i]:
                made.append(f"{thing}: immutable")
                continue
            if self.direction[i]:
                made.append(f"{thing}: only {'up' if self.direction[i] > 0 else 'down'}")
            if i in self.allowed:
                made.append(f"{thing}: allowed")
            elif self.lower[i] > -np.inf or self.upper[i] < np.inf:
                if not self.indicator[i]:
                    made.append(f"{thing}: range")
                elif self.upper[i] < 1:
                    made.append(f"{thing}: allowed")
            if self.integer.any() and self.integer[i]:
                made.append(f"{thing}: whole numbers")
        made += [f"{self.thing(i)} and {self.thing(j)}: linked" for i, j, _ in self.links]
        made += [f"linear limit {row + 1}" for row in range(len(self.A))]
        return tuple(dict.fromkeys(made))

    def without(self, lifted: Collection[str]) -> Constraints:
        """These constraints without the rules of the ``lifted`` labels."""
        given = {part: getattr(self, part).copy() for part in ("immutable", "direction", "lower", "upper")}
        allowed = dict(self.allowed)
        integer = self.integer.copy() if self.integer.size else np.zeros(len(self.names), bool)
        for i in range(len(self.names)):
            thing = self.thing(i)
            if f"{thing}: immutable" in lifted:
                given["immutable"][i] = False
            if f"{thing}: only up" in lifted or f"{thing}: only down" in lifted:
                given["direction"][i] = 0
            if f"{thing}: whole numbers" in lifted:
                integer[i] = False
            if f"{thing}: range" in lifted or f"{thing}: allowed" in lifted:
                allowed.pop(i, None)
                given["lower"][i], given["upper"][i] = (0.0, 1.0) if self.indicator[i] else (-np.inf, np.inf)
        links = tuple(
            (i, j, ratio)
            for i, j, ratio in self.links
            if f"{self.thing(i)} and {self.thing(j)}: linked" not in lifted
        )
        rows = [row for row in range(len(self.A)) if f"linear limit {row + 1}" not in lifted]
        return replace(
            self, **given, allowed=allowed, integer=integer, links=links, A=self.A[rows], b=self.b[rows]
        )

    @classmethod
    def free(cls, names: Sequence[str]) -> Constraints:
        """Everything may change, at cost 1 a unit."""
        return compile_constraints({}, names)


def read_constraints(path: Path, names: Sequence[str]) -> Constraints:
    """Read and compile a constraints file. Raises ConfigError naming file, key and fix."""
    return compile_constraints(constraint_table(path), names, where=str(path))


def constraint_table(path: Path) -> Mapping[str, Any]:
    """The file as it stands, not yet checked against features."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the constraints file cannot be read", where=str(path), found=str(error)) from error
    try:
        if path.suffix in (".yaml", ".yml"):
            import yaml

            given = yaml.safe_load(text) or {}
        else:
            given = tomllib.loads(text)
    except Exception as error:  # both parsers say line and column
        raise ConfigError("not valid TOML or YAML", where=str(path), found=str(error)) from error
    if not isinstance(given, Mapping):
        raise ConfigError("expected a table", where=str(path), found=type(given).__name__)
    return given


def compile_constraints(
    given: Mapping[str, Any],
    names: Sequence[str],
    *,
    where: str = "constraints",
    units: NDArray[np.float64] | None = None,
) -> Constraints:
    """Check ``given`` against the feature ``names`` and compile it.

    units [d]: cost of one unit where the file says none (default 1).
    """
    rules = ConstraintFile.parse(given, where=where)
    at = {name: i for i, name in enumerate(names)}

    def index(name: str, key: str) -> int:
        if name not in at:
            near = did_you_mean(name, list(names))
            raise ConfigError(
                f"there is no feature '{name}'",
                where=f"{where}, {key}",
                expected="one of " + ", ".join(names),
                fix=f"did you mean '{near}'?" if near else None,
            )
        return at[name]

    d = len(names)
    immutable, direction = np.zeros(d, bool), np.zeros(d, np.int8)
    lower, upper = np.full(d, -np.inf), np.full(d, np.inf)
    cost = np.ones(d) if units is None else np.array(units, dtype=np.float64)
    integer = np.zeros(d, bool)
    allowed: dict[int, NDArray[np.float64]] = {}
    for name, rule in rules.features.items():
        i = index(name, "features")
        immutable[i], integer[i] = rule.immutable, rule.integer
        if rule.cost is not None:
            cost[i] = rule.cost
        direction[i] = {"any": 0, "up": 1, "down": -1}[rule.direction]
        if rule.range is not None:
            lower[i], upper[i] = rule.range
        if rule.allowed is not None:
            allowed[i] = _numbers(rule.allowed, f"{where}, features.{name}.allowed")
            lower[i] = max(lower[i], allowed[i][0])
            upper[i] = min(upper[i], allowed[i][-1])
    groups = tuple(
        np.array([index(name, f"groups.{group}") for name in rule.features], dtype=np.int64)
        for group, rule in rules.groups.items()
    )
    taken = [int(i) for group in groups for i in group]
    if len(taken) != len(set(taken)):
        raise ConfigError("a feature belongs to two groups", where=f"{where}, groups")
    for i in taken:
        lower[i], upper[i] = max(lower[i], 0.0), min(upper[i], 1.0)
    links = tuple((index(r.feature, "linked"), index(r.moves, "linked"), r.ratio) for r in rules.linked)
    rows, limits = np.zeros((len(rules.linear), d)), np.zeros(len(rules.linear))
    for row, linear in enumerate(rules.linear):
        limits[row] = linear.at_most
        for name, factor in linear.coefficients.items():
            rows[row, index(name, f"linear[{row}]")] = factor
    return Constraints(
        tuple(names),
        immutable,
        direction,
        lower,
        upper,
        cost,
        allowed,
        groups,
        links,
        rows,
        limits,
        integer,
        tuple(rules.groups),
    )


def _numbers(values: tuple[float | str, ...], where: str) -> NDArray[np.float64]:
    try:
        return np.unique(np.array([float(value) for value in values]))
    except ValueError as word:
        raise ConfigError(
            "a numeric feature has numbers as allowed values", where=where, found=str(list(values))
        ) from word
