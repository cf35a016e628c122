"""Reports: what a run, a comparison, a study or repeated runs showed, as one self-contained HTML page, JSON
and CSV.

``content`` is what a report of runs says, as plain data; ``gather`` makes it from runs, ``page`` draws it,
``tables`` writes it for machines, ``write`` does all of it. ``comparison``, ``study`` and ``reliability`` are
the same for what their names say.
"""

from recengine.reports.calibration import calibration_of
from recengine.reports.comparison import About, comparison_report, write_comparison
from recengine.reports.content import Report
from recengine.reports.gather import report_of
from recengine.reports.reliability import write_reliability
from recengine.reports.study import study_report, write_study
from recengine.reports.write import write, write_report

__all__ = [
    "About",
    "Report",
    "calibration_of",
    "comparison_report",
    "report_of",
    "study_report",
    "write",
    "write_comparison",
    "write_reliability",
    "write_report",
    "write_study",
]
