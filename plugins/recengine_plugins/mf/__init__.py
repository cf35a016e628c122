"""Matrix factorisation under any loss."""

from recengine.hooks import Registry, hookimpl


@hookimpl
def recengine_register_models(registry: Registry) -> None:
    registry.add(
        "mf",
        "recengine_plugins.mf.model:MF",
        config="recengine_plugins.mf.config:MFConfig",
        summary="matrix factorisation trained from pairs by any loss",
        default_loss="sl",
        check={"loss": {"negatives": 16, "temperature": 0.2}},
    )
