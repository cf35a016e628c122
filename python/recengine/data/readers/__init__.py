"""Readers of file layouts. Each has a name, says whether it recognises a path, and reads it."""

from __future__ import annotations

from recengine.data.readers.movielens import MovieLens
from recengine.data.readers.parts import MMREC, IRBench, LightGCN
from recengine.data.readers.recbole import RecBole
from recengine.data.readers.sequences import Pairs, Sequences
from recengine.data.readers.sparse import ImplicitCSR
from recengine.data.readers.store import Store
from recengine.data.readers.tables import Table

__all__ = [
    "MMREC",
    "IRBench",
    "ImplicitCSR",
    "LightGCN",
    "MovieLens",
    "Pairs",
    "RecBole",
    "Sequences",
    "Store",
    "Table",
]
