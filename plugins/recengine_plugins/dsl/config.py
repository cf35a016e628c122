"""Settings of DSL-R."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from recengine.config import knob
from recengine.contracts.loss import LossConfig

LEAST = 1e-6  # temperature; far below it scores over it are beyond single precision


class DSLRConfig(LossConfig):
    """Either branch alone: kappa = 0 leaves the temperatures, gamma = 0 the weights; both zero, as in the
    warm-up, is SL less log N, with a negative_weight v BSL's v log(...) in its place, and with a
    reach_temperature SL@K with a threshold read from the sampled items."""

    negatives: int = knob(256, "sampled items a row", ge=1, low=32, high=2048, log=True)
    shared: bool = knob(False, "one set of sampled items for the whole batch")
    sampler: Literal["uniform", "popularity", "mixed"] = knob("uniform", "how items are sampled")
    power: float = knob(1.0, "exponent of the popularity in 'popularity' and 'mixed'", ge=0)
    reject: bool = knob(
        False, "with shared: leave out of a row what its user was trained on (a row's own items always are)"
    )
    temperature: float = knob(
        0.1, "t0, about which rows vary; SL's best", ge=LEAST, low=0.01, high=0.5, log=True
    )
    kappa: float = knob(1.0, "strength of the weights; 0: none", ge=0, choices=(0.0, 0.5, 1.0, 2.0, 4.0))
    rho: float = knob(
        0.5, "share of hardness against likeness to the target", ge=0, le=1, choices=(0.0, 0.5, 1.0)
    )
    gamma: float = knob(
        -1.0,
        "strength of the temperatures; above 0 crowded rows are sharpened, below 0 softened",
        choices=(-1.0, -0.5, 0.0, 0.5, 1.0, 2.0),
    )
    negative_weight: float = knob(
        1.0,
        "of the sampled side against the target's; above 1 the target is pulled less",
        gt=0,
        choices=(1.0, 1.1, 1.25, 1.5),
    )
    reach_temperature: float = knob(
        0.0,
        "t_w of a row's weight sigmoid((s_p - b) / t_w), b the slate's least cosine; 0: rows count alike",
        ge=0,
        choices=(0.0, 1.0, 2.25, 3.0, 4.5),
    )
    slate: int = knob(20, "competitors that the intensity is read from", ge=1, choices=(5, 10, 20, 50))
    clip_low: float = knob(0.5, "least temperature over t0", ge=LEAST, le=1)
    clip_high: float = knob(2.0, "largest temperature over t0", ge=1)
    momentum: float = knob(0.99, "of the mean intensity", ge=0, lt=1)
    warmup: int = knob(
        5, "epochs at the start with kappa = gamma = 0: SL, but for the weight and the reach", ge=0
    )
    ramp: int = knob(5, "epochs over which kappa and gamma then rise", ge=0)
    scale_by_tau: bool = knob(False, "multiply a row's loss by its temperature over t0")

    @model_validator(mode="after")
    def _rejection_of_shared_ones(self) -> Self:
        if self.reject and not self.shared:
            raise ValueError("reject is for items that the batch shares: shared = true")
        return self

    @model_validator(mode="after")
    def _reach_or_none(self) -> Self:
        if 0 < self.reach_temperature < LEAST:
            raise ValueError(
                f"reach_temperature {self.reach_temperature:g} is neither 0 nor at least {LEAST:g}"
            )
        return self

    def idle(self, epochs: int) -> list[str]:
        """The strengths, where the warm-up takes all of the fit."""
        if epochs > self.warmup or not (self.kappa or self.gamma):
            return []
        return [
            f"the warm-up of {self.warmup} epochs takes all of a fit of {epochs}: kappa and gamma never come "
            "into force (lower loss.warmup, or raise training.epochs)"
        ]
