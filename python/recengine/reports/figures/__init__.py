"""The figures of a report, one module a subject; each function returns an svg element as text."""

from recengine.reports.figures.curves import curve_figure
from recengine.reports.figures.data import (
    concentration_figure,
    lengths_figure,
    taken_by_top_tenth,
    timeline_figure,
)
from recengine.reports.figures.intervals import headline_figure, mini_interval
from recengine.reports.figures.slices import slices_figure

__all__ = [
    "concentration_figure",
    "curve_figure",
    "headline_figure",
    "lengths_figure",
    "mini_interval",
    "slices_figure",
    "taken_by_top_tenth",
    "timeline_figure",
]
