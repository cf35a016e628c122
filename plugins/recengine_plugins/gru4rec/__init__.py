"""GRU4Rec: a recurrent network over a person's events."""

from recengine.hooks import Registry, hookimpl


@hookimpl
def recengine_register_models(registry: Registry) -> None:
    registry.add(
        "gru4rec",
        "recengine_plugins.gru4rec.model:GRU4Rec",
        config="recengine_plugins.gru4rec.config:GRU4RecConfig",
        summary="gated recurrent network over a person's events, one event at a time",
        default_loss="softmax",
    )
