"""Files that are there whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from recengine.errors import UsageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; renamed over ``path`` when the block ends well.

    A reader, or a process that died in between, sees the old file or the new one, never a part. When
    the block raises (a full disk, say) the temporary file is removed and the old file stays. A failure of the
    system is raised as OSError with the path, whichever library met it. The file may be read by whom the
    umask allows, whatever the library that wrote it thinks (safetensors: the owner alone).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        mode = _made(temporary)
        with naming(path):
            yield temporary
        temporary.chmod(mode)
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
        _sync(path.parent, os.O_RDONLY)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A failure of the system inside is raised as OSError with ``path``, whichever library met it."""
    try:
        yield
    except Exception as failed:
        raise _of_the_system(failed, path) from failed


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Nobody else writes to ``folder`` meanwhile: an advisory lock that the system takes back when the
    process ends, however it ends. Raises UsageError when another process holds it. File systems without such
    locks are written to without one. A folder that was made here and stayed empty is removed.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                "another process is writing to this folder",
                where=str(folder),
                fix="wait until it has ended, or choose another folder",
            ) from None
        except OSError:  # NFS and the like
            pass
        yield
    finally:
        os.close(handle)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def write_bytes(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path``, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Put ``content`` at ``path`` as JSON (NaN and infinity are refused: no parser agrees on them)."""
    write_bytes(path, (json.dumps(content, indent=1, allow_nan=False, default=_plain) + "\n").encode())


def write_toml(path: Path, content: dict[str, Any]) -> None:
    """Put ``content`` at ``path`` as TOML; keys whose value is None are left out (TOML has no null)."""
    write_bytes(path, tomli_w.dumps(_without_none(content)).encode())


def write_with(path: Path, writer: Callable[[Path], object]) -> None:
    """Let ``writer`` write to a temporary path, then rename it to ``path``."""
    with replacing(path) as temporary:
        writer(temporary)


def _of_the_system(failed: Exception, path: Path) -> Exception:
    """``failed`` as OSError where a Rust library (safetensors, polars) met one: its text has the number."""
    number = failed.errno if isinstance(failed, OSError) else None
    if number is None and (told := re.search(r"\(os error (\d+)\)", str(failed))):
        number = int(told[1])
    return failed if number is None else OSError(number, os.strerror(number), str(path))


def _plain(value: Any) -> Any:
    """numpy scalars and arrays, sets and paths as JSON knows them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def _without_none(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_none(value) for key, value in content.items() if value is not None}
    return [_without_none(value) for value in content] if isinstance(content, list) else content


def _made(path: Path) -> int:
    """Make an empty file; the mode that the umask gives it."""
    path.write_bytes(b"")
    return path.stat().st_mode & 0o777


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
