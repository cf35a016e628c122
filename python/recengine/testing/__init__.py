"""For plugin authors: conformance checks of each kind, a small world with a known pattern, a project writer.

Mix a class into a test class and name what you registered; pytest finds the checks::

    import my_plugin
    from recengine.testing import ModelConformance

    class TestTastes(ModelConformance):
        name = "tastes"
        plugin = my_plugin

``recengine plugins check NAME`` runs the same checks without pytest.
"""

from recengine.testing.base import Conformance
from recengine.testing.check import CheckResult, check_plugin, run_checks
from recengine.testing.clicks import ClickDatasetConformance, ClickModelConformance, planted_clicks
from recengine.testing.commands import CommandConformance
from recengine.testing.datasets import DatasetConformance
from recengine.testing.losses import LossConformance
from recengine.testing.metrics import MetricConformance
from recengine.testing.models import ModelConformance
from recengine.testing.recourse import RecourseConformance
from recengine.testing.tuners import TunerConformance
from recengine.testing.worlds import World, planted

__all__ = [
    "CheckResult",
    "ClickDatasetConformance",
    "ClickModelConformance",
    "CommandConformance",
    "Conformance",
    "DatasetConformance",
    "LossConformance",
    "MetricConformance",
    "ModelConformance",
    "RecourseConformance",
    "TunerConformance",
    "World",
    "check_plugin",
    "planted",
    "planted_clicks",
    "run_checks",
]
