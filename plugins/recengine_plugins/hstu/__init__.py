"""HSTU: gated pointwise attention."""

from recengine.hooks import Registry, hookimpl


@hookimpl
def recengine_register_models(registry: Registry) -> None:
    registry.add(
        "hstu",
        "recengine_plugins.hstu.model:HSTU",
        config="recengine_plugins.hstu.config:HSTUConfig",
        summary="gated attention without softmax, with relative positions and times",
        default_loss="softmax",
    )
