"""Losses for models that score by a dot product."""

from recengine.hooks import Registry, hookimpl

_HERE = "recengine_plugins.losses"
_MODEL = f"{_HERE}.model"
_CONFIG = f"{_HERE}.config"
_CATALOGUE = {
    "sl": ("softmax_family:SL", "SLConfig", "sampled softmax on cosines, negatives only in the sum"),
    "ssm": (
        "softmax_family:SSM",
        "SSMConfig",
        "sampled softmax on cosines, target in the sum, logQ-corrected",
    ),
    "bsl": ("softmax_family:BSL", "BSLConfig", "bilateral softmax: a temperature for the targets as well"),
    "psl": ("psl:PSL", "PSLConfig", "pairwise softmax with an activation in place of the exponential"),
    "advinfonce": (
        "adversarial:AdvInfoNCE",
        "AdvInfoNCEConfig",
        "InfoNCE, negatives weighed by an adversary",
    ),
    "adap_tau": (
        "adaptive:AdapTau",
        "AdapTauConfig",
        "softmax, a temperature a user by how well it is fitted",
    ),
    "ccl": ("margins:CCL", "CCLConfig", "cosine contrastive loss with a margin"),
    "drrl": ("margins:DrRL", "DrRLConfig", "distributionally robust ranking with a margin a user"),
    "simce": ("margins:SimCE", "SimCEConfig", "margin to the hardest sampled item"),
    "mse": ("margins:MSE", "MSEConfig", "squared error of the sigmoid (a baseline)"),
    "llpauc": ("partial_auc:LLPAUC", "LLPAUCConfig", "lower-left partial AUC"),
    "sogclr": ("top_k:SogCLR", "SogCLRConfig", "softmax over a moving average a user, for few sampled items"),
    "sl_at_k": ("top_k:SLAtK", "SLAtKConfig", "SL with rows in reach of the top K weighed up"),
    "sogsl_at_k": ("top_k:SogSLAtK", "SogSLAtKConfig", "SL@K with SogCLR's negatives"),
    "lambdaloss": (
        "lambda_rank:LambdaLoss",
        "LambdaLossConfig",
        "sampled pairs weighed by what exchanging them changes in DCG@K",
    ),
    "directau": ("direct_au:DirectAU", "DirectAUConfig", "alignment and uniformity, without negatives"),
}


@hookimpl
def recengine_register_losses(registry: Registry) -> None:
    registry.add(
        "softmax",
        f"{_MODEL}:Softmax",
        config=f"{_CONFIG}:SoftmaxConfig",
        summary="cross-entropy over all items",
    )
    registry.add(
        "sampled_softmax",
        f"{_MODEL}:SampledSoftmax",
        config=f"{_CONFIG}:SampledSoftmaxConfig",
        summary="cross-entropy over the target and sampled items, corrected for how they were sampled",
    )
    registry.add(
        "gbce",
        f"{_MODEL}:GBCE",
        config=f"{_CONFIG}:GBCEConfig",
        summary="binary cross-entropy with the over-confidence of sampling calibrated away",
    )
    registry.add(
        "bce",
        f"{_MODEL}:BCE",
        config=f"{_CONFIG}:BCEConfig",
        summary="binary cross-entropy of the target against sampled items",
    )
    registry.add(
        "bpr",
        f"{_MODEL}:BPR",
        config=f"{_CONFIG}:BPRConfig",
        summary="the target above each sampled item (Bayesian personalised ranking)",
    )
    for name, (target, config, summary) in _CATALOGUE.items():
        registry.add(name, f"{_HERE}.{target}", config=f"{_CONFIG}:{config}", summary=summary)
