"""Cotten4Rec: cosine linear attention over a person's events."""

from recengine.hooks import Registry, hookimpl


@hookimpl
def recengine_register_models(registry: Registry) -> None:
    registry.add(
        "cotten4rec",
        "recengine_plugins.cotten4rec.model:Cotten4Rec",
        config="recengine_plugins.cotten4rec.config:Cotten4RecConfig",
        summary="cosine attention over a person's events, linear in their number, trained to fill gaps",
        default_loss="softmax",
        check={"training": {"learning_rate": 0.001}},  # above it, one seed in three never leaves the plateau
    )
