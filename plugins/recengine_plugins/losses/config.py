"""Settings of the losses."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from recengine.config import knob
from recengine.contracts.loss import LossConfig

LEAST = 1e-6  # temperature; far below it scores over it are beyond single precision


class SoftmaxConfig(LossConfig):
    """Cross-entropy over the whole catalogue."""

    score: Literal["dot", "cosine"] = knob("dot", "inner products, or those of unit vectors")
    temperature: float = knob(1.0, "scores are divided by it", ge=LEAST, low=0.05, high=2.0, log=True)


Sampler = Literal["uniform", "popularity", "mixed", "in_batch"]


class _Sampled(LossConfig):
    negatives: int = knob(1, "sampled items a row", ge=1, low=1, high=512, log=True)
    shared: bool = knob(False, "one set of sampled items for the whole batch")
    sampler: Sampler = knob(
        "uniform", "how items are sampled; in_batch: the other rows' targets, as many as there are"
    )
    power: float = knob(1.0, "exponent of the popularity in 'popularity' and 'mixed'", ge=0)


class SampledConfig(_Sampled):
    """What the losses have in common that are defined for any choice out of the sampled items."""

    hardest: int = knob(0, "keep only so many of a row's sampled items, the best scored; 0: all", ge=0)
    reject: bool = knob(
        False, "with shared: leave out of a row what its user was trained on (a row's own items always are)"
    )

    @model_validator(mode="after")
    def _rejection_of_shared_ones(self) -> Self:
        if self.reject and not self.shared:
            raise ValueError("reject is for items that the batch shares: shared = true")
        return self

    @model_validator(mode="after")
    def _hardest_of_its_own(self) -> Self:
        if self.hardest and (self.shared or self.sampler == "in_batch"):
            raise ValueError("hardest needs items sampled for each row: shared = false, and not 'in_batch'")
        if self.hardest > self.negatives:
            raise ValueError(f"hardest {self.hardest} is more than the {self.negatives} negatives of a row")
        return self


class _Many(SampledConfig):
    negatives: int = knob(256, "sampled items a row", ge=1, low=32, high=2048, log=True)


def _temperature(default: float, description: str = "scores are divided by it", **more: Any) -> Any:
    return knob(default, description, ge=LEAST, low=0.01, high=0.5, log=True, **more)


class SampledSoftmaxConfig(_Sampled):
    """Cross-entropy over the target and sampled items."""

    negatives: int = knob(256, "sampled items a row", ge=1, low=32, high=1024, log=True)
    shared: bool = knob(True, "one set of sampled items for the whole batch")
    log_q: bool = knob(True, "correct each sampled score by the log of how likely it was to be sampled")
    temperature: float = knob(1.0, "scores are divided by it", ge=LEAST, low=0.05, high=2.0, log=True)


class GBCEConfig(_Sampled):
    """gSASRec's loss."""

    negatives: int = knob(256, "sampled items a row", ge=1, low=16, high=512, log=True)
    calibration: float = knob(
        0.75, "0: plain binary cross-entropy, 1: fully calibrated", ge=0, le=1, low=0, high=1
    )
    balanced: bool = knob(
        True, "shift all scores by log(beta / N), so that target and sampled items weigh alike at the start"
    )


class BCEConfig(SampledConfig):
    """SASRec's first loss."""


class BPRConfig(SampledConfig):
    """Pairwise ranking."""


class SLConfig(_Many):
    """Sampled softmax, negatives only in the sum."""

    temperature: float = _temperature(0.1)


class SSMConfig(_Many):
    """Sampled softmax with the target in the sum."""

    temperature: float = _temperature(0.1)
    log_q: bool = knob(True, "correct draws that are not uniform by the log of how likely they were")


class BSLConfig(_Many):
    """Bilateral softmax."""

    form: Literal["ratio", "grouped"] = knob("ratio", "IR-Benchmark's form, or the authors' over user groups")
    temperature: float = _temperature(0.1, "of the sampled items (of both sides in form 'grouped')")
    positive_temperature: float = _temperature(
        0.1, "of the targets, in form 'ratio'", when={"form": ("ratio",)}
    )
    negative_weight: float = knob(
        1.0,
        "of the sampled items in form 'grouped'",
        gt=0,
        low=0.8,
        high=1.5,
        when={"form": ("grouped",)},
    )


class PSLConfig(_Many):
    """Pairwise softmax with an activation."""

    temperature: float = _temperature(0.05, "halved cosines are divided by it: about half of SL's")
    activation: Literal["tanh", "atan", "relu"] = knob(
        "relu", "in place of the exponential", choices=("tanh", "atan", "relu")
    )
    coupled: bool = knob(False, "the mean over rows inside of the logarithm")


class AdvInfoNCEConfig(_Many):
    """InfoNCE against an adversary."""

    temperature: float = _temperature(0.1)
    negative_weight: float = knob(64.0, "K, the weight of the sampled items", gt=0)
    adversary_factors: int = knob(16, "length of the adversary's vectors", ge=1)
    adversary_rate: float = knob(
        5e-5, "length of the adversary's steps in every coordinate", gt=0, low=1e-5, high=1e-2, log=True
    )
    adversary_epochs: int = knob(20, "epochs in which it may step", ge=0)
    every: int = knob(5, "it steps in every so many-th epoch", ge=1)

    def idle(self, epochs: int) -> list[str]:
        """The adversary, where the fit ends before its first step."""
        if epochs >= self.every or self.adversary_epochs < self.every:
            return []
        return [
            f"the adversary first steps in epoch {self.every} of a fit of {epochs}: it never does (lower "
            "loss.every, or raise training.epochs)"
        ]


class AdapTauConfig(_Many):
    """A temperature a user."""

    beta: float = knob(1.0, "loss difference that is large", gt=0, low=0.1, high=5.0, log=True)
    lowest: float = knob(0.02, "least temperature", ge=LEAST)
    highest: float = knob(1.0, "largest temperature", ge=LEAST)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.lowest > self.highest:
            raise ValueError(f"lowest {self.lowest:g} is above highest {self.highest:g}")
        return self


class CCLConfig(_Many):
    """Cosine contrastive loss."""

    margin: float = knob(0.4, "cosines below it cost nothing", ge=-1, lt=1, low=0.0, high=0.9)
    weight: float = knob(150.0, "of the sampled items", gt=0, low=1.0, high=1000.0, log=True)


class SimCEConfig(SampledConfig):
    """The hardest sampled item alone."""

    negatives: int = knob(64, "sampled items a row", ge=1, low=16, high=512, log=True)
    margin: float = knob(5.0, "between the target and the hardest sampled item", ge=0, low=0.5, high=10.0)


class DrRLConfig(_Many):
    """Robust ranking with a margin a user."""

    order: float = knob(2.0, "order of the divergence; its dual is the norm", gt=1, low=1.2, high=4.0)
    slope: float = knob(1.0, "of the excess over the margin", gt=0, low=0.1, high=10.0, log=True)
    floor: float = knob(0.1, "added to the excess", ge=0)
    margin: float = knob(0.0, "initial margin")


class MSEConfig(SampledConfig):
    """Squared error of the sigmoid."""


class LLPAUCConfig(_Many):
    """Lower-left partial AUC."""

    alpha: float = knob(0.7, "share of the positives that count", gt=0, le=1, low=0.1, high=0.9)
    beta: float = knob(0.1, "share of the negatives that count", gt=0, le=1, low=0.01, high=0.5, log=True)


class SogCLRConfig(SampledConfig):
    """Softmax over a moving average."""

    negatives: int = knob(32, "sampled items a row", ge=1, low=8, high=512, log=True)
    temperature: float = _temperature(0.1)
    rate: float = knob(0.5, "share of the newest sample in the average", gt=0, lt=1, low=0.1, high=0.9)


class SLAtKConfig(_Many):
    """SL aimed at the top K."""

    temperature: float = _temperature(0.1)
    k: int = knob(20, "K", ge=1, choices=(5, 20, 50))
    weight_temperature: float = knob(2.25, "of the weight's sigmoid", ge=LEAST, low=0.5, high=3.0)
    refresh: int = knob(20, "epochs between two looks at a user's K-th score", ge=1, choices=(5, 20))

    def idle(self, epochs: int) -> list[str]:
        """The thresholds, where no epoch follows the one of the first look (a user's rows that come later in
        that one are weighed by it, in small data none)."""
        if epochs > self.refresh:
            return []
        return [
            f"users' K-th scores are first looked at in epoch {self.refresh} of a fit of {epochs}: the "
            "thresholds are 0 until then (lower loss.refresh, or raise training.epochs)"
        ]


class SogSLAtKConfig(SLAtKConfig):
    """SL@K with SogCLR's negatives."""

    negatives: int = knob(32, "sampled items a row", ge=1, low=8, high=512, log=True)
    rate: float = knob(0.5, "share of the newest sample in the average", gt=0, lt=1, low=0.1, high=0.9)


class LambdaLossConfig(SampledConfig):
    """Pairs weighed by DCG."""

    negatives: int = knob(8, "sampled items a row", ge=1, low=1, high=64, log=True)
    k: int = knob(20, "ranks below it are worth nothing; 0: no cut", ge=0, choices=(0, 5, 20, 50))


class DirectAUConfig(LossConfig):
    """Alignment and uniformity."""

    uniformity: float = knob(1.0, "weight of uniformity", ge=0, low=0.2, high=10.0, log=True)
