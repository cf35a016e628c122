"""Settings of BONSAI."""

from __future__ import annotations

from typing import Literal

from recengine.config import Config, knob


class BonsaiConfig(Config):
    """Surrogate, acquisition, and how eagerly changes are put back to the default."""

    surrogate: Literal["auto", "gp", "map_saas"] = knob(
        "auto",
        "Gaussian process: one, or an ensemble under a sparsity prior; auto: the latter from 10 columns on",
    )
    members: int = knob(4, "fits of an ensemble", ge=1)
    acquisition: Literal["log_ei", "qlognei", "ucb", "qlognehvi"] = knob(
        "log_ei",
        "log expected improvement (over the best posterior mean; or Monte Carlo, noisy), upper confidence "
        "bound, or hypervolume",
    )
    prune: bool = knob(True, "put coordinates back to their default where little is lost")
    rho: float = knob(0.2, "share of the acquisition gain that pruning may cost", ge=0.0, le=1.0)
    schedule: Literal["constant", "no_regret"] = knob(
        "constant",
        "no_regret: rho_t = min(rho, rho / sqrt(t)), whose pruning loss adds up to less than linear, over "
        "the whole space (reach 1) and without trials of a sparser best point",
    )
    delta: float = knob(
        0.0,
        "loss in acquisition units that is accepted, up to .9 of the gain (improvement, confidence bound: "
        "units of the objective)",
        ge=0.0,
    )
    delta_share: float = knob(
        0.02,
        "the same as a share of what the best point known gains over the default; none under no_regret, nor "
        "with several objectives, whose hypervolume has other units",
        ge=0.0,
        le=1.0,
    )
    baseline: Literal["observed_max", "default", "none"] = knob(
        "observed_max", "what the gain is measured against: best observed point, default point, or nothing"
    )
    dense_every: int = knob(4, "every k-th proposal explores, see `explore`; 0: never", ge=0)
    explore: Literal["sparse", "dense"] = knob(
        "sparse",
        "how: by putting the best point's idle changes back (where that was not tried; not under no_regret), "
        "or by an unpruned proposal, so that no relevant coordinate is locked out",
    )
    refine: bool = knob(
        True, "optimise what pruning left once more, and prune again: one more local search a proposal"
    )
    negligible: float = knob(
        1e-3,
        "a gain below this share of what the best point known gains over the default counts as none: then "
        "what the best point changes is placed anew, and every dense_every-th proposal moves a few of its "
        "idle parameters; 0, and under no_regret: never",
        ge=0.0,
    )
    default_repeats: int = knob(
        3, "times that the default itself may be measured, where pruning leads back to it", ge=1
    )
    loss_share: float = knob(
        0.05, "share of the incumbent's gain over the default that its final pruning may cost", ge=0.0, le=1.0
    )
    design: Literal["auto", "blocks", "sobol"] = knob(
        "auto",
        "points between the default and the first model: the default with blocks of parameters moved, or "
        "Sobol's, in which all are; auto: the former from 10 parameters on",
    )
    initial: int = knob(
        0,
        "points before the first model, the default among them; 0: two more than there are parameters, "
        "4 to 10",
        ge=0,
    )
    beta: float = knob(4.0, "of the confidence bound: mean + sqrt(beta) sd", gt=0.0)
    reach: float = knob(
        0.3,
        "share of its range by which a proposal moves a number at most, from the default or the best point; "
        "under no_regret: 1",
        gt=0.0,
        le=1.0,
    )
    restarts: int = knob(12, "starts of the acquisition's optimiser", ge=1)
    raw_samples: int = knob(512, "points from which the starts are drawn", ge=1)
    mc_samples: int = knob(128, "draws of a Monte Carlo acquisition", ge=1)
