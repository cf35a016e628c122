"""Reliability over repeated runs: the best and the worst of k runs against k."""

from __future__ import annotations

from collections.abc import Sequence

from recengine.reports.content import Estimate
from recengine.reports.scale import Scale, round_ticks
from recengine.reports.svg import Drawing
from recengine.reports.words import percent, score

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _FOOT = 860.0, 320.0, 58.0, 150.0, 16.0, 46.0


def envelope_figure(
    ks: Sequence[int], best: Sequence[Estimate], worst: Sequence[Estimate], names: tuple[str, str], key: str
) -> str:
    """Two curves with their intervals: what any of k runs reaches, and what all of them reach."""
    said = "; ".join(
        f"k = {k}: {names[0]} {score(b.mean)}, {names[1]} {score(w.mean)}"
        for k, b, w in zip(ks, best, worst, strict=True)
    )
    drawing = Drawing(_WIDTH, _HEIGHT, key=key, title="Envelope over repeated runs", description=said)
    top = max(1.0, max(e.high for e in best))
    least = min(0.0, min(e.low for e in worst))
    bottom = _HEIGHT - _FOOT
    across = Scale(min(ks), max(ks), _LEFT + 12, _WIDTH - _RIGHT - 12)
    up = Scale(least, top, bottom, _TOP)
    for tick in round_ticks(least, top, 5):
        drawing.line((_LEFT, up(tick)), (_WIDTH - _RIGHT, up(tick)), "grid")
        words = (percent(tick) if tick else "0 %") if (least, top) == (0.0, 1.0) else score(tick)
        drawing.text((_LEFT - 8, up(tick) + 4), words, "tick", anchor="end")
    for k in ks:
        drawing.text((across(k), bottom + 18), str(k), "tick", anchor="middle")
    drawing.line((_LEFT, bottom), (_WIDTH - _RIGHT, bottom), "axis")
    upper, lower = (
        [(across(k), up(e.mean)) for k, e in zip(ks, side, strict=True)] for side in (best, worst)
    )
    drawing.path([*upper, *reversed(lower)], "area", closed=True)
    for shade, points, side, name in ((2, upper, best, names[0]), (3, lower, worst, names[1])):
        drawing.path(points, f"curve s{shade}")
        for k, (x, y), one in zip(ks, points, side, strict=True):
            drawing.line((x, up(one.low)), (x, up(one.high)), f"span thin s{shade}")
            drawing.marker(
                (x, y), shade - 1, f"dot s{shade}", size=5.0, tip=f"{name}, k = {k}: {score(one.mean)}"
            )
        drawing.text((_WIDTH - _RIGHT + 4, points[-1][1] + 5), name, "label")
    drawing.text(((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6), "runs (k)", "axis-title", anchor="middle")
    return drawing.render()
