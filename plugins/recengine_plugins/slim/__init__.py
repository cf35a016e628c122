"""SLIM."""

from recengine.hooks import Registry, hookimpl


@hookimpl
def recengine_register_models(registry: Registry) -> None:
    registry.add(
        "slim",
        "recengine_plugins.slim.model:SLIM",
        config="recengine_plugins.slim.config:SLIMConfig",
        summary="sparse item-item weights by elastic net, an item at a time",
    )
