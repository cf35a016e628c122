"""One curve: how a loss or a validation metric moved, and the point that was chosen."""

from __future__ import annotations

from recengine.reports.content import Curve
from recengine.reports.scale import Scale, log_ticks, padded, round_ticks
from recengine.reports.svg import Drawing
from recengine.reports.words import score, short

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _FOOT = 420.0, 236.0, 58.0, 16.0, 20.0, 44.0


def curve_figure(curve: Curve, shade: int, key: str) -> str:
    """A line with a dot at each value; a vertical rule and a label at the chosen one."""
    drawing = Drawing(_WIDTH, _HEIGHT, key=key, title=curve.title, description=_said(curve))
    low, high = padded(curve.y, share=0.12)
    x_low, x_high = min(curve.x), max(curve.x)
    across = Scale(x_low, x_high, _LEFT + 8, _WIDTH - _RIGHT - 8, log=curve.log_x)
    bottom = _HEIGHT - _FOOT
    up = Scale(low, high, bottom, _TOP)
    for tick in round_ticks(low, high, 4):
        drawing.line((_LEFT, up(tick)), (_WIDTH - _RIGHT, up(tick)), "grid")
        drawing.text((_LEFT - 8, up(tick) + 4), short(tick), "tick", anchor="end")
    ticks = log_ticks(x_low, x_high) if curve.log_x else round_ticks(x_low, x_high, 6)
    for tick in ticks:
        drawing.text((across(tick), bottom + 18), short(tick), "tick", anchor="middle")
    drawing.line((_LEFT, bottom), (_WIDTH - _RIGHT, bottom), "axis")
    drawing.text(((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6), curve.x_label, "axis-title", anchor="middle")
    points = [(across(x), up(y)) for x, y in zip(curve.x, curve.y, strict=True)]
    drawing.path(points, f"curve s{shade}")
    for (x, y), place in zip(zip(curve.x, curve.y, strict=True), points, strict=True):
        tip = f"{curve.x_label} {short(x)}: {short(y)}"
        drawing.marker(place, 0, f"dot small s{shade}", size=3.0 if len(points) < 40 else 1.6, tip=tip)
    if curve.chosen is not None and curve.chosen in curve.x:
        at = points[curve.x.index(curve.chosen)]
        drawing.line((at[0], _TOP), (at[0], bottom), "rule")
        drawing.marker(at, 0, f"ring s{shade}", size=6.5)
        left = at[0] > _WIDTH * 0.6
        drawing.text(
            (at[0] + (-8 if left else 8), _TOP + 8),
            f"chosen: {short(curve.chosen)}",
            "note",
            anchor="end" if left else "start",
        )
    return drawing.render()


def _said(curve: Curve) -> str:
    ends = f"{curve.y_label} from {score(curve.y[0])} to {score(curve.y[-1])} over {len(curve.y)} values"
    return ends if curve.chosen is None else f"{ends}; chosen: {curve.x_label} {short(curve.chosen)}"
