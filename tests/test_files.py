"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from recengine.files import replacing, write_bytes


def _half_written(path: Path, failure: Exception) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise failure


def test_the_old_file_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write_bytes(path, b"old")
    with pytest.raises(ValueError, match="no"):
        _half_written(path, ValueError("no"))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("library", [RuntimeError, OSError])
def test_a_failure_of_the_system_is_an_oserror_with_the_path(
    tmp_path: Path, library: type[Exception]
) -> None:
    path = tmp_path / "model"
    with pytest.raises(OSError, match="No space left") as raised:
        _half_written(path, library("I/O error: No space left on device (os error 28)"))
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(path)
    assert not list(tmp_path.iterdir())
