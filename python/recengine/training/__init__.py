"""Fitting: the loop, the processes it runs in, checkpoints, run records; life-cycle hooks as callbacks."""

from recengine.training.click_run import ClickRun
from recengine.training.config import EvaluationConfig, RunConfig, TrainerConfig, resolve, run_config_class
from recengine.training.fitting import fit
from recengine.training.loading import load
from recengine.training.progress import Progress
from recengine.training.recommending import recommend
from recengine.training.reproducing import Reproduction, reproduce
from recengine.training.run import Run

__all__ = [
    "ClickRun",
    "EvaluationConfig",
    "Progress",
    "Reproduction",
    "Run",
    "RunConfig",
    "TrainerConfig",
    "fit",
    "load",
    "recommend",
    "reproduce",
    "resolve",
    "run_config_class",
]
