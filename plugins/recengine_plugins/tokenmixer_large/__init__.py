"""TokenMixer-Large: mix and revert, per-token SwiGLU, dense or with sparse experts a token."""

from recengine.hooks import Registry, hookimpl


@hookimpl
def recengine_register_models(registry: Registry) -> None:
    registry.add(
        "tokenmixer_large",
        "recengine_plugins.tokenmixer_large.model:TokenMixerLarge",
        config="recengine_plugins.tokenmixer_large.config:TokenMixerLargeConfig",
        summary="token mixer that reverts its mixing, with per-token SwiGLU or sparse experts",
        task="clicks",
    )
    registry.add(
        "tokenmixer_large_moe",
        "recengine_plugins.tokenmixer_large.model:TokenMixerLarge",
        config="recengine_plugins.tokenmixer_large.config:TokenMixerLargeMoEConfig",
        summary="TokenMixer-Large with eight experts a token, four of them at work",
        task="clicks",
    )
