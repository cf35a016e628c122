"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from multiprocessing import get_context
from pathlib import Path

import pytest

from recengine.errors import UsageError
from recengine.files import alone_in, replacing, write_bytes, write_with


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


def test_a_file_gets_the_mode_of_the_umask_whatever_its_writer_thinks(tmp_path: Path) -> None:
    def secretive(temporary: Path) -> None:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))

    (tmp_path / "usual").write_bytes(b"")
    write_with(tmp_path / "model", secretive)
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_one_process_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with (
        alone_in(folder),
        pytest.raises(UsageError, match=r"run: another process is writing"),
        alone_in(folder),
    ):
        pass
    assert not folder.exists()  # it was made here and stayed empty
    tmp_path.joinpath("kept").mkdir()
    with alone_in(tmp_path / "kept"):
        pass
    assert (tmp_path / "kept").is_dir()


def _die_inside(folder: str) -> None:
    with alone_in(Path(folder)):
        os._exit(9)


def test_a_process_that_died_holds_no_folder(tmp_path: Path) -> None:
    dying = get_context("spawn").Process(target=_die_inside, args=(str(tmp_path),))
    dying.start()
    dying.join()
    assert dying.exitcode == 9
    with alone_in(tmp_path):
        pass
