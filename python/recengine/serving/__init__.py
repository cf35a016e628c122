"""Answers while events arrive, and in two stages."""

from recengine.serving.pair_features import PairFeatures
from recengine.serving.second_stage import SecondStage, candidates_log, second_stage
from recengine.serving.sessions import Sessions
from recengine.serving.stages import Stages, measure_stages, stages_protocol

__all__ = [
    "PairFeatures",
    "SecondStage",
    "Sessions",
    "Stages",
    "candidates_log",
    "measure_stages",
    "second_stage",
    "stages_protocol",
]
