"""DSL-R: a derived design after DSL, not a reproduction of it."""

from recengine.hooks import Registry, hookimpl


@hookimpl
def recengine_register_losses(registry: Registry) -> None:
    registry.add(
        "dsl_r",
        "recengine_plugins.dsl.model:DSLR",
        config="recengine_plugins.dsl.config:DSLRConfig",
        summary="DSL-R (derived design, not a reproduction): weighed negatives, a temperature a row",
    )
