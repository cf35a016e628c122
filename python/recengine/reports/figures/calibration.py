"""Observed share against predicted probability."""

from __future__ import annotations

from recengine.reports.content import Calibration
from recengine.reports.scale import Scale, round_ticks
from recengine.reports.svg import Drawing
from recengine.reports.words import score, short

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _FOOT = 420.0, 300.0, 58.0, 16.0, 30.0, 46.0


def calibration_figure(one: Calibration, shade: int, key: str) -> str:
    """A dot with its interval for each bin, and the line on which predictions come true."""
    said = "; ".join(f"predicted {score(p)}, observed {score(e.mean)}" for p, e in one.bins)
    drawing = Drawing(_WIDTH, _HEIGHT, key=key, title=f"Calibration of {one.system}", description=said)
    top = min(1.0, 1.06 * max(max(p, e.high) for p, e in one.bins)) or 1.0
    bottom = _HEIGHT - _FOOT
    across, up = Scale(0, top, _LEFT, _WIDTH - _RIGHT), Scale(0, top, bottom, _TOP)
    for tick in round_ticks(0, top, 5):
        drawing.line((_LEFT, up(tick)), (_WIDTH - _RIGHT, up(tick)), "grid")
        drawing.text((_LEFT - 8, up(tick) + 4), short(tick), "tick", anchor="end")
        drawing.text((across(tick), bottom + 18), short(tick), "tick", anchor="middle")
    drawing.line((across(0), up(0)), (across(top), up(top)), "rule")
    drawing.line((_LEFT, bottom), (_WIDTH - _RIGHT, bottom), "axis")
    for predicted, share in one.bins:
        x = across(predicted)
        drawing.line((x, up(share.low)), (x, up(share.high)), f"span thin s{shade}")
        tip = f"predicted {score(predicted)}: {score(share.mean)} of {share.n} rows"
        drawing.marker((x, up(share.mean)), shade - 1, f"dot s{shade}", size=5.2, tip=tip)
    drawing.text(((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6), "predicted", "axis-title", anchor="middle")
    drawing.text((4.0, 13.0), "share that came true", "axis-title", anchor="start")
    return drawing.render()
