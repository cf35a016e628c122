"""LightGCN."""

from recengine.hooks import Registry, hookimpl


@hookimpl
def recengine_register_models(registry: Registry) -> None:
    registry.add(
        "lightgcn",
        "recengine_plugins.lightgcn.model:LightGCN",
        config="recengine_plugins.lightgcn.config:LightGCNConfig",
        summary="matrix factorisation whose vectors are averaged over the user-item graph",
        default_loss="bpr",
    )
