"""The space that ``tune`` searches: the knobs of a model's sections, as the command line narrows them."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from recengine.cli.sections import sections_of
from recengine.config import Config, SearchRange, did_you_mean
from recengine.errors import ConfigError, UsageError
from recengine.settings.layers import parse_set

if TYPE_CHECKING:
    from recengine.tuning import LinearLimit, Space

SECTIONS = ("model", "loss", "training")


def search_space(
    model: str,
    start: Mapping[str, Any],
    only: Sequence[str] | None,
    fixed: Sequence[str],
    ranges: Sequence[str],
    costs: Sequence[str],
    limits: Sequence[str],
    n_items: int = 0,
) -> Space:
    """The knobs of the sections model, loss and training, around the settings ``start``. Of a model that fits
    itself in one call (no gradient steps) the section training has nothing to say. ``ranges``: NAME=LOW:HIGH,
    NAME=LOW:HIGH:log, NAME=LOW:HIGH:linear or NAME=A,B narrow or widen a knob, or make one of any setting.
    ``n_items``: negatives that the catalogue bounds are not searched above it, unless a range says so.
    """
    from recengine.tuning import Parameter, Space

    narrowed = dict(_range(text) for text in ranges)
    weights = {key: _number(value, text) for text in costs for key, value in [_assignment(text)]}
    parameters: list[Parameter] = []
    unsearched: list[tuple[str, Any]] = []
    known: list[str] = []
    settable: list[str] = []
    sections = tuple(name for name in SECTIONS if name != "training" or not fits_directly(model))
    for section, cls in sections_of(model, start).items():
        if section not in sections:
            continue
        values = {k: v for k, v in dict(start.get(section) or {}).items() if k in cls.model_fields}
        declared = [f"{section}.{key}" for key in cls.search_space()]
        added = [f"{section}.{key}" for key in cls.model_fields if f"{section}.{key}" in narrowed]
        declared += [key for key in added if key not in declared]
        known += declared
        settable += [f"{section}.{key}" for key in cls.model_fields]
        wanted = [key for key in declared if (not only or key in only) and key not in fixed]
        if "loss.negatives" in wanted and "loss.negatives" not in narrowed and n_items:
            within = _within_catalogue(cls, values, n_items)
            if within is None and only and "loss.negatives" in only:
                raise ConfigError(
                    "the catalogue has fewer items than the range of the negatives begins with",
                    where="loss.negatives",
                    found=f"{n_items} items",
                    fix=f"give it a range: --range loss.negatives=1:{n_items}",
                )
            if within is None:
                wanted.remove("loss.negatives")
            else:
                narrowed["loss.negatives"] = within
        if not wanted:
            continue
        bare = [key.partition(".")[2] for key in wanted]
        below = Space.of_config(
            cls,
            default=values,
            only=bare,
            ranges={k.partition(".")[2]: v for k, v in narrowed.items() if k in wanted},
            costs={k.partition(".")[2]: v for k, v in weights.items() if k in wanted},
            prefix=f"{section}.",
        )
        parameters += below.parameters
        unsearched += below.fixed
    for asked in [*(only or []), *fixed, *narrowed, *weights]:
        if asked not in known:
            raise _unknown(asked, known, settable)
    return Space(tuple(parameters), tuple(linear_limit(text) for text in limits), tuple(unsearched))


def start_within(
    start: Mapping[str, Any], model: str, given: Mapping[str, Any], n_items: int
) -> dict[str, Any]:
    """``start`` with the default number of negatives lowered to the catalogue, as a fit lowers it. Raises
    ConfigError for a ``given`` number above it, of which every trial would fail."""
    values = dict(start.get("loss") or {})
    loss = sections_of(model, start).get("loss")
    if loss is None or not 0 < n_items < values.get("negatives", 0) or not _bound(loss, values):
        return dict(start)
    if "negatives" in (given.get("loss") or {}):
        raise ConfigError(
            "there are fewer items than negatives are asked for",
            where="loss.negatives",
            found=values["negatives"],
            expected=f"at most {n_items}, the items of the catalogue",
        )
    return {**start, "loss": {**values, "negatives": n_items}}


def _bound(loss: type[Config], values: Mapping[str, Any]) -> bool:
    from recengine.training.splitting import bound_to_catalogue

    return bound_to_catalogue(loss.parse({k: v for k, v in values.items() if k in loss.model_fields}))


def _within_catalogue(loss: type[Config], values: Mapping[str, Any], n_items: int) -> SearchRange | None:
    """The declared range of the negatives, up to the number of items; None where nothing is left of it."""
    declared = loss.search_space()["negatives"]
    if declared.high is None or not _bound(loss, values):
        return declared
    high = min(declared.high, n_items)
    return None if declared.low is None or declared.low >= high else replace(declared, high=high)


def _unknown(asked: str, known: Sequence[str], settable: Sequence[str]) -> ConfigError:
    near = did_you_mean(asked, settable)
    fix = f"did you mean '{near}'?" if near else None
    if asked in settable:
        fix = f"give it a range: --range {asked}=LOW:HIGH, or --range {asked}=A,B"
    return ConfigError(
        f"there is no tunable setting '{asked}'",
        where="search space",
        found=asked,
        expected="one of " + ", ".join(known),
        fix=fix,
    )


def fits_directly(model: str) -> bool:
    """Whether the model solves itself instead of being trained by gradient steps."""
    from recengine.contracts.model import DirectFit
    from recengine.hooks import host

    return issubclass(host().registries["model"].get(model).load(), DirectFit)


def _assignment(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip() or not value.strip():
        raise UsageError("expected NAME=VALUE", found=text)
    return key.strip(), value.strip()


def _number(value: str, text: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError("expected a number", found=value, where=text) from None


def _range(text: str) -> tuple[str, tuple[float, float] | SearchRange]:
    key, value = _assignment(text)
    if "," in value:
        return key, SearchRange(
            choices=tuple(parse_set(f"{key}={one.strip()}")[1] for one in value.split(","))
        )
    low, sign, rest = value.partition(":")
    high, scaled, scale = rest.partition(":")
    if not sign or (scaled and scale not in ("log", "linear")):
        raise UsageError(
            "expected NAME=LOW:HIGH, NAME=LOW:HIGH:log, NAME=LOW:HIGH:linear or NAME=A,B", found=text
        )
    ends = _number(low, text), _number(high, text)
    return key, SearchRange(*ends, log=scale == "log") if scaled else ends


_TERM = re.compile(r"([+-]?)\s*(?:(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*\*\s*)?([A-Za-z_][\w.]*)\s*")


def linear_limit(text: str) -> LinearLimit:
    """'a.b + 2*c.d <= 5' or '>='."""
    from recengine.tuning import LinearLimit

    sides = re.split(r"(<=|>=)", text)
    if len(sides) != 3:
        raise UsageError("expected SUM <= NUMBER or SUM >= NUMBER", found=text, where="--limit")
    left, relation, right = sides
    sign = operator.pos if relation == "<=" else operator.neg
    terms, at = [], 0
    left = left.strip()
    while at < len(left):
        term = _TERM.match(left, at)
        if term is None or (at and not term[1]):
            raise UsageError("cannot read the sum", found=left[at:], where=f"--limit {text!r}")
        factor = float(term[2] or 1.0) * (-1.0 if term[1] == "-" else 1.0)
        terms.append((term[3], sign(factor)))
        at = term.end()
    return LinearLimit(tuple(terms), sign(_number(right.strip(), text)))
