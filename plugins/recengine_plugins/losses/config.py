"""Settings of the losses."""

from __future__ import annotations

from typing import Literal

from recengine.config import knob
from recengine.contracts.loss import LossConfig


class SoftmaxConfig(LossConfig):
    """Cross-entropy over the whole catalogue."""

    temperature: float = knob(1.0, "scores are divided by it", gt=0, low=0.05, high=2.0, log=True)


class _Sampled(LossConfig):
    negatives: int = knob(1, "sampled items a row", ge=1, low=1, high=512, log=True)
    shared: bool = knob(False, "one set of sampled items for the whole batch")
    sampler: Literal["uniform", "popularity"] = knob("uniform", "how items are sampled")


class SampledSoftmaxConfig(_Sampled):
    """Cross-entropy over the target and sampled items."""

    negatives: int = knob(256, "sampled items a row", ge=1, low=32, high=1024, log=True)
    shared: bool = knob(True, "one set of sampled items for the whole batch")
    log_q: bool = knob(True, "correct each sampled score by the log of how likely it was to be sampled")
    temperature: float = knob(1.0, "scores are divided by it", gt=0, low=0.05, high=2.0, log=True)


class GBCEConfig(_Sampled):
    """gSASRec's loss."""

    negatives: int = knob(256, "sampled items a row", ge=1, low=16, high=512, log=True)
    shared: bool = knob(True, "one set of sampled items for the whole batch")
    calibration: float = knob(
        0.75, "0: plain binary cross-entropy, 1: fully calibrated", ge=0, le=1, low=0, high=1
    )


class BCEConfig(_Sampled):
    """SASRec's first loss."""


class BPRConfig(_Sampled):
    """Pairwise ranking."""
