"""SimGCL."""

from recengine.hooks import Registry, hookimpl


@hookimpl
def recengine_register_models(registry: Registry) -> None:
    registry.add(
        "simgcl",
        "recengine_plugins.simgcl.model:SimGCL",
        config="recengine_plugins.simgcl.config:SimGCLConfig",
        summary="LightGCN with a contrast of two noisy views of the graph's vectors",
        default_loss="bpr",
    )
