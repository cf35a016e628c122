"""The generator of recengine.data under its default settings, as a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recengine.data import GeneratorConfig, generate

if TYPE_CHECKING:
    from recengine.data import Interactions


class Planted:
    """1,000 users and 500 items; nothing is read or written."""

    name = "planted"
    summary = "generated: power-law items, clusters, drift, ties, next-item structure, known ceiling"
    licence = "made on the spot; no rights attached"

    def load(self, cache: Path) -> Interactions:
        """Make it; ``cache`` is not used."""
        return generate(GeneratorConfig())[0]
