"""Reports: what a run or a comparison showed, as one self-contained HTML page, JSON and CSV.

``content`` is what a report says, as plain data; ``gather`` makes it from runs, ``page`` draws it,
``tables`` writes it for machines. ``write`` does all of it.
"""

from recengine.reports.content import Report
from recengine.reports.gather import report_of
from recengine.reports.write import write, write_report

__all__ = ["Report", "report_of", "write", "write_report"]
