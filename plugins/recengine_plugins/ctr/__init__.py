"""The usual click models: linear, factorised, crossed, attentive, pairwise, stacked."""

from __future__ import annotations

from recengine.hooks import Registry, hookimpl

_MODELS = (
    ("lr", "linear:LR", "LRConfig", "logistic regression: one weight a value"),
    ("fm", "linear:FM", "FMConfig", "factorisation machine: a weight a value and all pairs of vectors"),
    ("deepfm", "deep:DeepFM", "DeepFMConfig", "factorisation machine beside a tower on the same vectors"),
    ("dcnv2", "deep:DCNv2", "DCNv2Config", "cross layers with full matrices beside or under a tower"),
    ("autoint", "attention:AutoInt", "AutoIntConfig", "self-attention between the vectors of the features"),
    ("dlrm", "deep:DLRM", "DLRMConfig", "a tower for the numbers, all pairs of vectors, a tower on top"),
    ("wukong", "stacked:Wukong", "WukongConfig", "stacked factorisation machines with linear compression"),
)


@hookimpl
def recengine_register_models(registry: Registry) -> None:
    for name, target, config, summary in _MODELS:
        registry.add(
            name,
            f"recengine_plugins.ctr.{target}",
            config=f"recengine_plugins.ctr.config:{config}",
            summary=summary,
            task="clicks",
        )
