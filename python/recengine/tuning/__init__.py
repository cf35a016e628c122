"""The tuning room: search spaces, studies that survive anything, ask and tell. No named tuner lives here."""

from recengine.tuning.conclusion import Concluded, conclude, confirmed, unconfirmed
from recengine.tuning.decision import Decision, decide
from recengine.tuning.noise import Noise, noise
from recengine.tuning.region import walk
from recengine.tuning.space import LinearLimit, Parameter, Space
from recengine.tuning.stopping import HopelessError, Watched
from recengine.tuning.store import StudyFile, Trial
from recengine.tuning.study import Study

__all__ = [
    "Concluded",
    "Decision",
    "HopelessError",
    "LinearLimit",
    "Noise",
    "Parameter",
    "Space",
    "Study",
    "StudyFile",
    "Trial",
    "Watched",
    "conclude",
    "confirmed",
    "decide",
    "noise",
    "unconfirmed",
    "walk",
]
