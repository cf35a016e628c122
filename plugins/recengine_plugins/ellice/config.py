"""Settings of ElliCE."""

from __future__ import annotations

from typing import Literal

from recengine.config import Config, knob


class ElliCEConfig(Config):
    """Which guarantee is asked for, and how large the set of models is."""

    guarantee: Literal["ellipsoid", "exact", "sampled"] = knob(
        "ellipsoid",
        "ellipsoid: every model of the quadratic approximation, with a certificate; exact: every model whose "
        "true loss is within eps; sampled: every one of a drawn set",
    )
    eps: float | None = knob(None, "excess loss of the models to survive; None: from the level", gt=0)
    percent_of_loss: float | None = knob(None, "eps as a percentage of the training loss", gt=0)
    level: float = knob(0.95, "chi-square level that gives eps when it is not set", gt=0, lt=1)
    joint: bool = knob(True, "level of the whole model (True) or of one person's score (False)")
    cap: float = knob(0.5, "without a stated eps, at most this share of eps*", gt=0, lt=1)
    cost: Literal["l2", "l1", "changes"] = knob(
        "l2", "squared distance, absolute distance, or number of changed features"
    )
    plausible: float | None = knob(
        None,
        "no further from the rows of the wanted class (Mahalanobis) than this share of them; None: any",
        gt=0,
        le=1,
    )
    threshold: float = knob(
        0.0, "score that accepts: a logit for two classes, a lead over the other classes for several"
    )
    margin: float = knob(1e-6, "logit kept in hand against rounding", ge=0)
    samples: int = knob(2000, "models drawn for the sampled guarantee", ge=1)
    deviations: float = knob(
        3.0, "standard deviations of the refits' scores kept in hand, where refits are given", gt=0
    )
    nodes: int = knob(
        2000,
        "steps of branch and bound a person, then the gap is reported; a tenth of them under the exact and "
        "the sampled guarantee, where a step takes ten times as long",
        ge=1,
    )
    l2: float = knob(
        1e-3,
        "penalty of the refitted last layer (a given classifier's own, where known, unless this is set)",
        ge=0,
        low=1e-5,
        high=1.0,
        log=True,
    )
