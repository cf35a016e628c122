"""Fetching public data: the licence is shown first, transfers resume, nothing half-written is ever used.

A set lies in ``cache/NAME``: its files (archives unpacked) and ``fetched.json`` with address, size and
checksums. Whoever finds that record finds the whole set, because it is written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from recengine.data.public import PUBLIC_SETS, PublicSet, RemoteFile, public_set
from recengine.errors import DataError

if TYPE_CHECKING:
    from recengine.data.interactions import Interactions

__all__ = ["PUBLIC_SETS", "PublicSet", "RemoteFile", "fetch", "is_fetched", "load_fetched", "public_set"]

RECORD = "fetched.json"
_BLOCK = 1 << 16
_ATTEMPTS = 4

Tell = Callable[[str], None]
Progress = Callable[[int, int | None], None]


def fetch(
    name: str | PublicSet,
    cache: Path,
    *,
    base_url: str | None = None,
    tell: Tell | None = None,
    progress: Progress | None = None,
    timeout: float = 30.0,
) -> Path:
    """The folder of a public data set, fetched unless it is there.

    tell is given the address, the licence and what was verified, one sentence each, before and after the
    transfer; progress the bytes done and the total (None where it is not known). A transfer that breaks is
    resumed, also by the next call. base_url stands in for the publisher's address (a mirror).
    Raises DataError for no network, a missing file, a wrong checksum and a damaged archive.
    """
    chosen = public_set(name) if isinstance(name, str) else name
    folder = cache / chosen.name
    if is_fetched(chosen, cache):
        return folder
    say: Tell = tell or (lambda sentence: None)
    base = (base_url or chosen.base_url).rstrip("/") + "/"
    say(f"{chosen.name}: {chosen.summary}")
    say(f"licence: {chosen.licence} (see {chosen.homepage})")
    folder.mkdir(parents=True, exist_ok=True)
    records = [_fetch_file(file, base, folder, say, progress, timeout) for file in chosen.files]
    _write_record(folder, {"name": chosen.name, "licence": chosen.licence, "files": records})
    return folder


def is_fetched(chosen: str | PublicSet, cache: Path) -> bool:
    """Whether the whole set is in the cache."""
    name = chosen if isinstance(chosen, str) else chosen.name
    return (cache / name / RECORD).is_file()


def load_fetched(name: str | PublicSet, cache: Path) -> Interactions:
    """Read a set that was fetched before. Raises DataError when it was not."""
    from recengine.data.reading import read

    chosen = public_set(name) if isinstance(name, str) else name
    if not is_fetched(chosen, cache):
        raise DataError(
            f"the data set '{chosen.name}' has not been fetched",
            where=str(cache),
            fix=f"recengine data fetch {chosen.name}   (licence: {chosen.licence})",
        )
    folder = cache / chosen.name
    return read(folder / chosen.content if chosen.content else folder, **chosen.options)


def _fetch_file(
    file: RemoteFile, base: str, folder: Path, say: Tell, progress: Progress | None, timeout: float
) -> dict[str, Any]:
    address = base + file.path
    part = folder / f".{PurePosixPath(file.path).name}.part"
    say(f"from {address}")
    _transfer(address, part, progress, timeout)
    sums = _checksums(part)
    _verify(file, address, part, sums, say)
    size = part.stat().st_size
    target = folder / PurePosixPath(file.path).name
    if target.suffix == ".zip":
        _unpack(part, folder, address)
        part.unlink()
    else:
        part.replace(target)
    _etag_file(part).unlink(missing_ok=True)
    return {"address": address, "bytes": size, "verified": file.checksum is not None, **sums}


def _transfer(address: str, part: Path, progress: Progress | None, timeout: float) -> None:
    """Bring ``part`` to its full size; what is there already is kept where the server allows it."""
    for attempt in range(_ATTEMPTS):
        try:
            _receive(address, part, progress, timeout)
            return
        except urllib.error.HTTPError as refused:
            if refused.code == 416:  # the part is not a beginning of what the server has now
                part.unlink(missing_ok=True)
                continue
            raise _unavailable(address, refused.code) from None
        except (urllib.error.URLError, HTTPException, OSError) as broken:
            if attempt == _ATTEMPTS - 1:
                raise DataError(
                    "the transfer failed",
                    where=address,
                    found=str(getattr(broken, "reason", broken)) or type(broken).__name__,
                    expected="a network connection",
                    fix="check the connection and run the command again: it resumes where it stopped",
                ) from None
    raise DataError("the server does not give the file", where=address, found="status 416")


def _receive(address: str, part: Path, progress: Progress | None, timeout: float) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"User-Agent": "recengine", **_resume(part, have)})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        if response.status != 206:
            have = 0
        _remember_etag(part, response)
        expected = response.headers.get("Content-Length")
        total = None if expected is None else have + int(expected)
        with part.open("ab" if have else "wb") as out:
            while block := response.read(_BLOCK):
                out.write(block)
                have += len(block)
                if progress is not None:
                    progress(have, total)
            out.flush()
            os.fsync(out.fileno())
    if total is not None and have < total:
        raise ConnectionError(f"the connection closed after {have} of {total} bytes")


def _resume(part: Path, have: int) -> dict[str, str]:
    if not have:
        return {}
    etag = _etag_file(part)
    headers = {"Range": f"bytes={have}-"}
    if etag.is_file():
        headers["If-Range"] = etag.read_text(encoding="ascii")
    return headers


def _remember_etag(part: Path, response: HTTPResponse) -> None:
    etag = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):
        _etag_file(part).write_text(etag, encoding="ascii")
    else:
        _etag_file(part).unlink(missing_ok=True)


def _etag_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _checksums(path: Path) -> dict[str, str]:
    sums = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            for digest in sums.values():
                digest.update(block)
    return {kind: digest.hexdigest() for kind, digest in sums.items()}


def _verify(file: RemoteFile, address: str, part: Path, sums: dict[str, str], say: Tell) -> None:
    if file.checksum is None:
        say(f"unverified: no checksum of the publisher is known; sha256 {sums['sha256']} is recorded")
        return
    kind, _, expected = file.checksum.partition(":")
    if sums[kind] != expected:
        part.unlink()
        raise DataError(
            "the file has the wrong checksum and was deleted",
            where=address,
            found=f"{kind} {sums[kind]}",
            expected=f"{kind} {expected}",
            fix="fetch it again; if it stays so, the publisher has changed the file",
        )
    say(f"verified: {kind} {expected}")


def _unpack(archive: Path, folder: Path, address: str) -> None:
    """Unpack beside, then move in: a folder of the archive is there whole or not at all."""
    beside = Path(tempfile.mkdtemp(prefix=".unpack.", dir=folder))
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.namelist():
                path = PurePosixPath(member)
                if path.is_absolute() or ".." in path.parts:
                    raise DataError("the archive leads out of its folder", where=address, found=member)
            opened.extractall(beside)
        for entry in beside.iterdir():
            target = folder / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            entry.replace(target)
    except zipfile.BadZipFile as broken:
        archive.unlink(missing_ok=True)
        raise DataError(
            "the archive is damaged and was deleted", where=address, found=str(broken), fix="fetch it again"
        ) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    beside = folder / f".{RECORD}.part"
    with beside.open("w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(folder / RECORD)


def _unavailable(address: str, status: int) -> DataError:
    return DataError(
        "the server does not give the file",
        where=address,
        found=f"status {status}",
        fix="the publisher may have moved it: give its new place with base_url=..."
        if status == 404
        else "try again later",
    )
