"""XSimGCL."""

from recengine.hooks import Registry, hookimpl


@hookimpl
def recengine_register_models(registry: Registry) -> None:
    registry.add(
        "xsimgcl",
        "recengine_plugins.xsimgcl.model:XSimGCL",
        config="recengine_plugins.xsimgcl.config:XSimGCLConfig",
        summary="LightGCN with noise in its layers and a contrast between two of them",
        default_loss="bpr",
    )
