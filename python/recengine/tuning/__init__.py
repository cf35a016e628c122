"""The tuning room: search spaces, studies that survive anything, ask and tell. No named tuner lives here."""

from recengine.tuning.decision import Decision, decide
from recengine.tuning.region import walk
from recengine.tuning.space import LinearLimit, Parameter, Space
from recengine.tuning.stopping import HopelessError, Watched
from recengine.tuning.store import StudyFile, Trial
from recengine.tuning.study import Study

__all__ = [
    "Decision",
    "HopelessError",
    "LinearLimit",
    "Parameter",
    "Space",
    "Study",
    "StudyFile",
    "Trial",
    "Watched",
    "decide",
    "walk",
]
