"""BERT4Rec: bidirectional self-attention, trained on hidden events."""

from recengine.hooks import Registry, hookimpl


@hookimpl
def recengine_register_models(registry: Registry) -> None:
    registry.add(
        "bert4rec",
        "recengine_plugins.bert4rec.model:BERT4Rec",
        config="recengine_plugins.bert4rec.config:BERT4RecConfig",
        summary="bidirectional self-attention over a person's events, trained to fill gaps",
        default_loss="softmax",
    )
