"""RankMixer: tokens mixed by a transposition, a feed-forward network a token."""

from recengine.hooks import Registry, hookimpl


@hookimpl
def recengine_register_models(registry: Registry) -> None:
    registry.add(
        "rankmixer",
        "recengine_plugins.rankmixer.model:RankMixer",
        config="recengine_plugins.rankmixer.config:RankMixerConfig",
        summary="tokens of features, mixed without parameters, and a feed-forward network a token",
        task="clicks",
    )
