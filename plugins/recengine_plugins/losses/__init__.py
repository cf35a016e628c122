"""Losses for models that score by a dot product."""

from recengine.hooks import Registry, hookimpl

_MODEL = "recengine_plugins.losses.model"
_CONFIG = "recengine_plugins.losses.config"


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
