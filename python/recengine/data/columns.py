"""Which column is which: guesses by name, said aloud, never silent about doubt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from recengine.config import did_you_mean
from recengine.errors import DataError

Role = Literal["user", "item", "time", "weight"]
ROLES: tuple[Role, ...] = ("user", "item", "time", "weight")

# Known names, most telling first; compared in lower case without anything but letters and digits.
_KNOWN: dict[Role, tuple[str, ...]] = {
    "user": (
        *("userid", "useridx", "user", "uid", "userprocid", "reviewerid", "customerid", "customer"),
        *("householdid", "household", "clientid", "client", "memberid", "member", "visitorid", "visitor"),
        *("sessionid", "session", "accountid", "playerid"),
    ),
    "item": (
        *("itemid", "itemidx", "item", "iid", "itemprocid", "movieid", "productid", "parentasin", "asin"),
        *("bookid", "articleid", "songid", "trackid", "artistid", "videoid", "newsid", "jobid", "sku"),
        *("isbn", "movie", "product", "book", "article", "song", "track", "artist", "video", "joke"),
        *("vroot", "goodsid", "content", "contentid", "docid", "placeid", "businessid", "gameid", "appid"),
    ),
    "time": (
        *("timestamp", "time", "unixtime", "unixreviewtime", "datetime", "date", "ts", "eventtime"),
        *("transactiontimestamp", "createdat", "day", "reviewtime", "eventtimestamp", "visitdate"),
        *("purchasedat", "purchasedate", "orderedat", "orderdate", "ratedat", "viewedat", "clickedat"),
        *("playedat", "watchedat", "eventdate", "unixtimestamp", "timestampms"),
    ),
    "weight": (
        *("rating", "weight", "score", "stars", "overall", "label", "value", "count", "cnt"),
        *("playcount", "plays", "quantity", "strength", "preference"),
    ),
}


def plain(name: str) -> str:
    """A column name without case, a RecBole type suffix, or signs."""
    return re.sub(r"[^a-z0-9]", "", name.split(":")[0].lower())


def is_known(name: str) -> bool:
    """Whether a column name tells its role."""
    return any(plain(name) in names for names in _KNOWN.values())


def choose_columns(
    names: Sequence[str], given: Mapping[str, str | None], where: str | None = None
) -> tuple[dict[Role, str], list[str]]:
    """The column of each role and the sentences that say which were guessed.

    ``given`` are the user's choices (they win). Time and weight may be absent. Raises DataError for a
    repeated column, a chosen column that is not there, one column in two roles, and a user or item column
    that nothing names.
    """
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise DataError(
            "a column name occurs twice",
            where=f"{where or 'table'}, line 1, column '{repeated[0]}'",
            found=", ".join(names),
            expected="names that differ",
            fix="rename one of them",
        )
    chosen: dict[Role, str] = {}
    said: list[str] = []
    for role in ROLES:
        wanted = given.get(role)
        if wanted is not None:
            chosen[role] = _exact(names, wanted, role, where)
    for role in ROLES:
        if role in chosen:
            continue
        guess = _guess(names, role, set(chosen.values()))
        if guess is not None:
            chosen[role] = guess
            said.append(f"{role} = column '{guess}' (guessed from its name)")
        elif role in ("user", "item"):
            raise _missing(names, role, where)
        else:
            said.append(f"no {role} column")
    unused = [name for name in names if name not in chosen.values()]
    if unused:
        said.append("columns not used: " + ", ".join(unused[:10]) + (" …" if len(unused) > 10 else ""))
    if len(set(chosen.values())) < len(chosen):
        raise DataError(
            "one column was given two roles",
            where=where,
            found=", ".join(f"{role}={name}" for role, name in chosen.items()),
            fix="name a column of its own for each role",
        )
    return chosen, said


def _exact(names: Sequence[str], wanted: str, role: Role, where: str | None) -> str:
    if wanted in names:
        return wanted
    near = did_you_mean(wanted, list(names))
    raise DataError(
        f"there is no column '{wanted}'",
        where=f"{where or 'table'}, line 1",
        found="columns " + ", ".join(names),
        expected=f"the {role} column",
        fix=f"did you mean '{near}'?" if near else f"name one of them with {role}=...",
    )


def _guess(names: Sequence[str], role: Role, taken: set[str]) -> str | None:
    by_plain = {plain(name): name for name in reversed(names) if name not in taken}
    return next((by_plain[known] for known in _KNOWN[role] if known in by_plain), None)


def _missing(names: Sequence[str], role: Role, where: str | None) -> DataError:
    one = len(names) == 1
    return DataError(
        f"no column looks like the {role} id",
        where=f"{where or 'table'}, line 1",
        found=("one column: " if one else "columns ") + ", ".join(name[:80] for name in names),
        expected=f"a column named like {role}, {role}_id, {_KNOWN[role][5]}",
        fix="the delimiter may be another: give delimiter=..."
        if one
        else f"name the column: {role}=NAME, on the command line --data-option {role}=NAME (and header=false "
        "if there is no header line)",
    )
