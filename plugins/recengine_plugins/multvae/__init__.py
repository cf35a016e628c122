"""MultVAE."""

from recengine.hooks import Registry, hookimpl


@hookimpl
def recengine_register_models(registry: Registry) -> None:
    registry.add(
        "multvae",
        "recengine_plugins.multvae.model:MultVAE",
        config="recengine_plugins.multvae.config:MultVAEConfig",
        summary="variational autoencoder of histories with a multinomial likelihood",
        check={"model": {"hidden": 64, "latent": 16, "anneal": 0.0}},
    )
