"""The answer in words: who stands where today, what to change, what it costs, what it survives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from recengine.recourse.columns import Change
from recengine.recourse.questions import Conflict, Price

NO_ROW = "no training row"
GAP = 1e-6
"""A relative gap worth a word: below it an answer counts as the cheapest."""


@dataclass(frozen=True)
class Told:
    """One person's answer. Scores are logits (or differences of class scores): positive accepts.

    score, worst: of the person as is, by the fitted model and by the worst near-optimal one; score_after,
    worst_after: of the changed person. changed: things that change, a category or linked columns as one.
    cost_unrobust: of the cheapest answer for the fitted model alone. servable: the largest eps that still
    leaves an answer, where there is none at the eps asked for. worst_undrawn: of the whole ellipsoid, where
    worst_after is that of drawn models only. cost_ellipsoid: what ``binding`` is compared with, where the
    answer is for another set of models.
    """

    row: int
    status: str
    score: float
    worst: float
    changes: list[Change] = field(default_factory=list)
    changed: int = 0
    cost: float | None = None
    certified: bool = False
    score_after: float | None = None
    worst_after: float | None = None
    worst_undrawn: float | None = None
    gap: float | None = None
    proved_least: int | None = None
    cost_unrobust: float | None = None
    binding: list[Price] = field(default_factory=list)
    cost_ellipsoid: float | None = None
    conflict: Conflict | None = None
    servable: float | None = None


def number(value: float) -> str:
    """Six digits that matter, without noise."""
    return f"{value:.6g}"


def in_words(told: Told, wanted: str, cost_kind: str) -> list[str]:
    """Sentences for a person, most important first."""
    if told.status == "already accepted":
        return [
            f"Row {told.row} is accepted already: score {told.score:+.4f} for '{wanted}', and the worst of "
            f"the near-optimal models still says {told.worst:+.4f}. Nothing needs to change."
        ]
    lines = [_today(told, wanted)]
    if told.cost is None:
        lines += _why_none(told)
        return lines
    things = "1 change" if len(told.changes) == 1 else f"{len(told.changes)} changes"
    lines.append(f"What to change ({things}, cost {number(told.cost)} {cost_kind}):")
    width = max((len(change.column) for change in told.changes), default=0)
    lines += [f"  {change.column:<{width}}  {_change(change)}" for change in told.changes]
    after = f"Then the score is {told.score_after:+.4f}; robustness margin {told.worst_after:+.2e}"
    if told.worst_undrawn is None:
        lines.append(f"{after} (score of the worst near-optimal model).")
    else:
        lines.append(
            f"{after} (score of the worst drawn model; of the whole ellipsoid: {told.worst_undrawn:+.2e})."
        )
    if told.proved_least is not None:
        few = told.proved_least
        lines.append(
            "No answer changes fewer things (proved)."
            if few >= told.changed
            else f"At least {few} changes are needed (proved); whether {told.changed} is least is open."
        )
    elif told.gap is not None and told.gap > GAP:
        lines.append(
            f"A cheaper answer may exist: at most {100 * told.gap:.2g} % cheaper (search cut short)."
        )
    if told.cost_unrobust is not None:
        lines.append(f"For the fitted model alone it would cost {number(told.cost_unrobust)}.")
    if told.binding:
        under = ""
        if told.cost_ellipsoid is not None:
            under = f" (asked of the ellipsoid, where the answer costs {number(told.cost_ellipsoid)})"
        lines.append(f"What stands in the way{under}:")
        lines += [f"  {price.label}: without it, cost {number(price.cost_without)}" for price in told.binding]
    return lines


def _today(told: Told, wanted: str) -> str:
    if told.score > 0:
        return (
            f"Row {told.row} is accepted by the fitted model (score {told.score:+.4f} for '{wanted}'), but "
            f"not by every near-optimal one: the worst says {told.worst:+.4f}."
        )
    return (
        f"Row {told.row} is refused: score {told.score:+.4f} for '{wanted}', the worst near-optimal model "
        f"says {told.worst:+.4f}."
    )


def _change(change: Change) -> str:
    if change.by is None or change.spreads is None:
        return f"{change.before} -> {change.after}"
    before, after = float(change.before), float(change.after)
    return f"{number(before)} -> {number(after)}  ({change.by:+.6g}, {change.spreads:+.2f} sd)"


def _why_none(told: Told) -> list[str]:
    if told.status == NO_ROW:
        return [
            "No training row within the constraints is accepted by every near-optimal model; a point between "
            "the rows may be."
        ]
    if told.status == "none found before the search ended":
        return ["The search ended before it found an answer or a proof that there is none (setting nodes)."]
    lines = ["No change within the constraints makes every near-optimal model accept."]
    if told.conflict is not None:
        lines.append(_blamed(told.conflict))
    if told.servable is not None and told.servable > 0:
        lines.append(f"Under these constraints an answer exists up to eps {number(told.servable)}.")
    elif told.servable is not None:
        lines.append("Under these constraints not even the fitted model alone can be brought to accept.")
    return lines


def _blamed(found: Conflict) -> str:
    if not found.labels:
        return "No single rule is to blame: even without the rules there is no answer."
    joined = listed(found.labels)
    if found.of_itself:
        return f"These rules contradict each other, whatever the model says: {joined}."
    return f"These rules alone leave no way, and each of them is needed for that: {joined}."


def listed(parts: Sequence[str]) -> str:
    return "; ".join(parts)
