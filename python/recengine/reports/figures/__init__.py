"""The figures of a report, one module a subject; each function returns an svg element as text."""

from recengine.reports.figures.calibration import calibration_figure
from recengine.reports.figures.curves import curve_figure
from recengine.reports.figures.data import (
    concentration_figure,
    lengths_figure,
    taken_by_top_tenth,
    timeline_figure,
)
from recengine.reports.figures.envelope import envelope_figure
from recengine.reports.figures.forest import ForestRow, forest_figure
from recengine.reports.figures.intervals import headline_figure, mini_interval
from recengine.reports.figures.margin import Line, MarginCurves, margin_figure
from recengine.reports.figures.runs import runs_figure
from recengine.reports.figures.slices import slices_figure
from recengine.reports.figures.trials import changes_figure, setting_figure, trials_figure

__all__ = [
    "ForestRow",
    "Line",
    "MarginCurves",
    "calibration_figure",
    "changes_figure",
    "concentration_figure",
    "curve_figure",
    "envelope_figure",
    "forest_figure",
    "headline_figure",
    "lengths_figure",
    "margin_figure",
    "mini_interval",
    "runs_figure",
    "setting_figure",
    "slices_figure",
    "taken_by_top_tenth",
    "timeline_figure",
    "trials_figure",
]
