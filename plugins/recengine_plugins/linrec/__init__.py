"""LinRec: L2-normalised linear attention."""

from recengine.hooks import Registry, hookimpl


@hookimpl
def recengine_register_models(registry: Registry) -> None:
    registry.add(
        "linrec",
        "recengine_plugins.linrec.model:LinRec",
        config="recengine_plugins.linrec.config:LinRecConfig",
        summary="linear attention (elu, L2-normalised) over a person's events, trained to fill gaps",
        default_loss="softmax",
        check={"training": {"learning_rate": 0.001}},  # above it, one seed in three never leaves the plateau
    )
