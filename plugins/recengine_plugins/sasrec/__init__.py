"""SASRec: self-attentive sequential recommendation."""

from recengine.hooks import Registry, hookimpl


@hookimpl
def recengine_register_models(registry: Registry) -> None:
    registry.add(
        "sasrec",
        "recengine_plugins.sasrec.model:SASRec",
        config="recengine_plugins.sasrec.config:SASRecConfig",
        summary="self-attentive sequential recommendation, a loss at every position",
        default_loss="softmax",
    )
    registry.add(
        "gsasrec",
        "recengine_plugins.sasrec.model:SASRec",
        config="recengine_plugins.sasrec.config:SASRecConfig",
        summary="SASRec with sampled items and gBCE, which undoes their over-confidence",
        default_loss="gbce",
        check={"loss": {"negatives": 16, "shared": False, "calibration": 0.0}},
    )
