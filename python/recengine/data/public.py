"""Public data sets that can be fetched: address, licence, checksums where the publisher's are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recengine.config import did_you_mean
from recengine.errors import UsageError


@dataclass(frozen=True)
class RemoteFile:
    """A file below the base address. checksum: 'md5:...' or 'sha256:...' of the publisher, or None where it
    is not known (the one computed on the first fetch is recorded)."""

    path: str
    checksum: str | None = None


@dataclass(frozen=True)
class PublicSet:
    """A data set and how it is read. content: file or folder, below the folder it is fetched into, that
    holds the interactions ('' for the folder itself); options: of ``recengine.data.read``."""

    name: str
    summary: str
    licence: str
    homepage: str
    base_url: str
    files: tuple[RemoteFile, ...]
    content: str
    options: Mapping[str, Any] = field(default_factory=dict)


_GROUPLENS = "https://files.grouplens.org/datasets/movielens/"
_MOVIELENS = "GroupLens terms: research use, no redistribution without permission, no commercial use"
_AMAZON = "no licence stated; published for research (McAuley et al., SIGIR 2015)"
_SNAP = "no licence stated; check-ins published for research (SNAP), lists by the LightGCN authors"


def _movielens(name: str, summary: str, content: str, checksum: str | None, **options: Any) -> PublicSet:
    return PublicSet(
        name,
        summary,
        _MOVIELENS,
        "https://grouplens.org/datasets/movielens/",
        _GROUPLENS,
        (RemoteFile(f"{name}.zip", checksum),),
        content,
        options,
    )


def _amazon(name: str, category: str) -> PublicSet:
    return PublicSet(
        name,
        f"Amazon reviews 2014, {category.replace('_', ' ')}: user, item, rating, time",
        _AMAZON,
        "https://jmcauley.ucsd.edu/data/amazon/",
        "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/",
        (RemoteFile(f"ratings_{category}.csv"),),
        f"ratings_{category}.csv",
        {"header": False, "user": "1", "item": "2", "weight": "3", "time": "4", "ids": "text"},
    )


PUBLIC_SETS = (
    _movielens(
        "ml-latest-small",
        "MovieLens, small changing edition: about 100,000 ratings",
        "ml-latest-small/ratings.csv",
        None,  # the edition changes, and its checksum with it
    ),
    _movielens(
        "ml-100k",
        "MovieLens 100K: 943 users, 1,682 films, 100,000 ratings",
        "ml-100k/u.data",
        "md5:0e33842e24a9c977be4e0107933c0723",
        delimiter="\t",
        header=False,
    ),
    _movielens(
        "ml-1m",
        "MovieLens 1M: 6,040 users, 3,706 rated films, 1,000,209 ratings",
        "ml-1m/ratings.dat",
        "md5:c4d9eecfca2ab87c1945afe126590906",
        delimiter="::",
        header=False,
    ),
    _movielens(
        "ml-20m",
        "MovieLens 20M: 138,493 users, 26,744 rated films, 20,000,263 ratings",
        "ml-20m/ratings.csv",
        "md5:cd245b17a1ae2cc31bb14903e1204af3",
    ),
    _movielens(
        "ml-25m",
        "MovieLens 25M: 162,541 users, 59,047 rated films, 25,000,095 ratings",
        "ml-25m/ratings.csv",
        "md5:6b51fb2759a8657d3bfcbfc42b592ada",
    ),
    _amazon("amazon-beauty", "Beauty"),
    _amazon("amazon-sports", "Sports_and_Outdoors"),
    _amazon("amazon-games", "Video_Games"),
    PublicSet(
        "gowalla",
        "Gowalla check-ins as LightGCN divides them: 29,858 users, 40,981 places",
        _SNAP,
        "https://snap.stanford.edu/data/loc-gowalla.html",
        "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/master/data/gowalla/",
        (RemoteFile("train.txt"), RemoteFile("test.txt")),
        "",
        {"layout": "lightgcn"},
    ),
)


def public_set(name: str) -> PublicSet:
    """The public data set of that name; raises UsageError with a did-you-mean."""
    found = next((known for known in PUBLIC_SETS if known.name == name), None)
    if found is not None:
        return found
    names = [known.name for known in PUBLIC_SETS]
    near = did_you_mean(name, names)
    raise UsageError(
        f"there is no public data set '{name}'",
        expected="one of " + ", ".join(names),
        fix=f"did you mean '{near}'?" if near else None,
    )
