"""SimpleX."""

from recengine.hooks import Registry, hookimpl


@hookimpl
def recengine_register_models(registry: Registry) -> None:
    registry.add(
        "simplex",
        "recengine_plugins.simplex.model:SimpleX",
        config="recengine_plugins.simplex.config:SimpleXConfig",
        summary="matrix factorisation with the user's history averaged in",
        default_loss="ccl",
        check={"loss": {"negatives": 16, "weight": 10.0}},
    )
