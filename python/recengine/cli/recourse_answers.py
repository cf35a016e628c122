"""Asking a method and gathering what ``recourse`` prints: answers, reasons, curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recengine.cli.recourse_model import Ready

if TYPE_CHECKING:
    from recengine.recourse import Constraints
    from recengine.recourse.telling import Told
    from recengine.reports.figures.margin import MarginCurves


def answer(
    made: Ready,
    x0: Any,
    rows: list[int],
    limits: Constraints,
    *,
    ways: int = 1,
    supported: bool = False,
    long: bool = True,
) -> list[Told]:
    """One ``Told`` a person (``ways`` of them where several are asked for); ``rows``: their places in the
    table. ``long`` adds reasons: which rules bind, which contradict each other, what eps could be served."""
    import numpy as np

    from recengine.recourse.telling import NO_ROW

    if not rows:
        return []
    method = made.method
    if ways > 1:
        return _several(made, x0, rows, limits, ways)
    if supported:
        found = method.judge(method.nearest_supported(x0, limits), x0, limits)
        status = found.details["status"]
        found.details["status"] = np.where(np.isfinite(found.points).all(axis=1), status, NO_ROW)
    else:
        found = method.solve(x0, limits)
    told = _told(made, x0, rows, found)
    if not long or supported:
        return told
    return (
        [_with_reasons(made, x, one, limits) for x, one in zip(x0, told, strict=True)]
        if np.size(x0)
        else told
    )


def _several(made: Ready, x0: Any, rows: list[int], limits: Constraints, ways: int) -> list[Told]:
    from recengine.recourse import diverse

    told = []
    for x, row in zip(x0, rows, strict=True):
        found = diverse(made.method, x, limits, ways)
        if not found:
            told.append(
                _with_reasons(
                    made, x, _told(made, x[None], [row], made.method.solve(x[None], limits))[0], limits
                )
            )
        for one in found:
            told += _told(made, x[None], [row], one)
    return told


def _told(made: Ready, x0: Any, rows: list[int], found: Any) -> list[Told]:
    import numpy as np

    from recengine.recourse.telling import Told

    method = made.method
    drawn = "drawn_worst_logit" in found.details
    score, worst = method.score(x0), method.margin(x0, method.radius.eps)
    details = found.details
    told = []
    for k, row in enumerate(rows):
        today, least_today = float(score[k]), float(worst[k])
        if not np.isfinite(found.points[k]).all():
            told.append(Told(row, str(details["status"][k]), today, least_today))
            continue
        point = found.points[k]
        ellipsoid = details["worst_logit"]
        after = details.get("true_worst_logit", details.get("drawn_worst_logit", ellipsoid))
        gap = details.get("gap")
        least = details.get("proved_least")
        told.append(
            Told(
                row,
                str(details["status"][k]),
                today,
                least_today,
                changes=made.columns.changes(x0[k], point),
                changed=int(details["changed"][k]),
                cost=float(found.costs[k]),
                certified=bool(found.certified[k]),
                score_after=float(method.score(point)[0]),
                worst_after=float(after[k]),
                worst_undrawn=float(ellipsoid[k]) if drawn else None,
                gap=None if gap is None else float(gap[k]),
                proved_least=None if least is None else int(least[k]),
            )
        )
    return told


def _with_reasons(made: Ready, x: Any, one: Told, limits: Constraints) -> Told:
    from dataclasses import replace

    from recengine.recourse import binding, conflict

    if one.status in ("already accepted", "none found before the search ended"):
        return one
    quick = made.method.quick()  # reasons take many answers
    if one.cost is None:
        why = conflict(quick, x, limits)
        blocked = why is not None and why.of_itself
        return replace(one, conflict=why, servable=None if blocked else quick.servable(x, limits))
    alone = made.method.alone().search(x[None], limits).points
    without = float(quick.cost(alone, x[None], limits)[0])
    near = quick.search(x[None], limits).points
    here = float(quick.cost(near, x[None], limits)[0])
    other = None if made.method.config.guarantee == "ellipsoid" else here
    prices = binding(quick, x, limits, here)
    return replace(one, binding=prices, cost_unrobust=without, cost_ellipsoid=other)


def curves(made: Ready, person: Any, told: Told, limits: Constraints) -> MarginCurves:
    """Margins of the person and of the answer over eps, and the cost of an answer at some of them."""
    import numpy as np

    from recengine.reports.figures.margin import Line, MarginCurves

    method = made.method
    largest = method.radius.largest
    grid = np.linspace(0.0, 1.0, 61) ** 2 * largest
    lines = [Line("as is", 1, [float(method.margin(person, eps)[0]) for eps in grid])]
    found = method.solve(person[None], limits).points[0]
    if np.isfinite(found).all():
        lines.append(Line("after the change", 2, [float(method.margin(found, eps)[0]) for eps in grid]))
        if method.config.guarantee == "exact":
            some = [
                float(method.true_margin(found, eps)) if k % 6 == 3 else float("nan")
                for k, eps in enumerate(grid)
            ]
            lines.append(Line("true set", 4, some, dots=True))
    shares = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
    costs = []
    for share in shares:
        there = method.quick().at(share * largest).search(person[None], limits).points
        costs.append(float(method.cost(there, person[None], limits)[0]))
    title = f"row {told.row}: margin against eps ({method.config.guarantee})"
    return MarginCurves(
        title, grid.tolist(), lines, method.radius.eps, largest, [s * largest for s in shares], costs
    )
