"""Reports: what a run or a comparison showed, as one self-contained HTML page, JSON and CSV.

``content`` is what a report says, as plain data; ``page`` draws it, ``tables`` writes it for machines.
"""

from recengine.reports.content import Report
from recengine.reports.write import write_report

__all__ = ["Report", "write_report"]
