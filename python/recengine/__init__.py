"""recengine: a compiled, plugin-based recommender engine.

The public names load on first use, so ``import recengine`` costs no torch import.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recengine.data import Interactions
    from recengine.evaluation import evaluate
    from recengine.training import fit, load, recommend

try:
    __version__ = version("recengine")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+uninstalled"

_HOME = {
    "Interactions": "recengine.data",
    "fit": "recengine.training",
    "load": "recengine.training",
    "recommend": "recengine.training",
    "evaluate": "recengine.evaluation",
}

__all__ = ["Interactions", "__version__", "evaluate", "fit", "load", "recommend"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recengine' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
