"""The readers of the engine, registered through the same door as any other plugin's."""

from __future__ import annotations

from typing import Any

from recengine.hooks import hookimpl

_READERS = (
    ("store", "Store", "the engine's own folder of columns"),
    ("mmrec", "MMREC", "folder with NAME.inter (x_label) and features as .npy"),
    ("recbole", "RecBole", "RecBole atomic files"),
    ("lightgcn", "LightGCN", "folder with train.txt and test.txt, a user and its items a line"),
    ("irbench", "IRBench", "folder with train.tsv and test.tsv"),
    ("movielens", "MovieLens", "folder with ratings.csv, ratings.dat or u.data"),
    ("csr", "ImplicitCSR", "user-item matrix of scipy.sparse.save_npz"),
    ("sequences", "Sequences", "a user and its items a line, oldest first"),
    ("pairs", "Pairs", "user and item a line, in time order"),
    ("table", "Table", "CSV, TSV or Parquet"),
)


@hookimpl
def recengine_register_readers(registry: Any) -> None:
    for name, target, summary in _READERS:
        registry.add(name, f"recengine.data.readers:{target}", summary=summary)
