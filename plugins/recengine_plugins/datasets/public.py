"""Public data sets that were fetched. They are never fetched by loading: the licence is shown first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recengine.data.fetching import load_fetched
from recengine.data.public import PublicSet, public_set

if TYPE_CHECKING:
    from recengine.data import Interactions


class Fetched:
    """A public set in the cache."""

    def __init__(self, of: PublicSet) -> None:
        self._of = of
        self.name, self.summary, self.licence = of.name, of.summary, of.licence

    def load(self, cache: Path) -> Interactions:
        """Read it from the cache; raises DataError with the command that fetches it."""
        return load_fetched(self._of, cache)


ML_LATEST_SMALL = Fetched(public_set("ml-latest-small"))
ML_100K = Fetched(public_set("ml-100k"))
ML_1M = Fetched(public_set("ml-1m"))
ML_20M = Fetched(public_set("ml-20m"))
ML_25M = Fetched(public_set("ml-25m"))
AMAZON_BEAUTY = Fetched(public_set("amazon-beauty"))
AMAZON_SPORTS = Fetched(public_set("amazon-sports"))
AMAZON_GAMES = Fetched(public_set("amazon-games"))
GOWALLA = Fetched(public_set("gowalla"))
