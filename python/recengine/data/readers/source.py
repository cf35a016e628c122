"""Opening files: every way in which a file can fail to be text, with its place."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from recengine.errors import DataError

if TYPE_CHECKING:
    import polars as pl

_HEAD = 1 << 16
_CHUNK = 1 << 24
_NOWHERE = "\x1f"  # the ASCII unit separator, which no text line holds: one column a line


class Source:
    """A text file, plain or gzip. ``for_polars`` is what ``polars.read_csv`` takes."""

    def __init__(self, path: Path) -> None:
        """Raises DataError when the path is no readable file, is empty, or its gzip stream is damaged."""
        self.path = path
        self.name = str(path)
        with _opening(path):
            if path.suffix == ".gz":
                with gzip.open(path) as packed:
                    self._content: bytes | None = packed.read()
                self.size = len(self._content)
            else:
                self._content = None
                self.size = path.stat().st_size
                with path.open("rb") as file:
                    file.read(1)
        if self.size == 0:
            raise DataError("the file is empty", where=self.name, expected="a table of interactions")

    def for_polars(self) -> io.BytesIO | Path:
        """The file, or its unpacked content."""
        return self.path if self._content is None else io.BytesIO(self._content)

    def open(self) -> IO[bytes]:
        """The unpacked bytes as a stream."""
        return self.path.open("rb") if self._content is None else io.BytesIO(self._content)

    def head(self, lines: int = 100) -> list[str]:
        """The first lines, without ends and without a byte order mark. Raises DataError when they are no
        UTF-8 text."""
        with self.open() as stream:
            raw = stream.read(_HEAD)
        cut = raw if len(raw) < _HEAD or b"\n" not in raw else raw[: raw.rfind(b"\n")]
        nul = cut.find(0)
        if nul >= 0:
            number = cut.count(10, 0, nul) + 1
            raise DataError(
                "the file is not text",
                where=f"{self.name}, line {number}",
                found="a NUL byte",
                expected="UTF-8 text",
                fix="name the layout it is in, or convert it to CSV or Parquet",
            )
        try:
            text = cut.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise self.not_utf8() from None
        return text.splitlines()[:lines]

    def count(self, sign: bytes) -> int:
        """How often a byte occurs."""
        with self.open() as stream:
            return sum(chunk.count(sign) for chunk in iter(lambda: stream.read(_CHUNK), b""))

    def lines(self) -> Iterator[bytes]:
        """Lines as bytes, for finding the place of a fault."""
        with self.open() as stream:
            yield from stream

    def not_utf8(self) -> DataError:
        """The complaint about the first line that is no UTF-8."""
        for number, line in enumerate(self.lines(), 1):
            try:
                line.decode()
            except UnicodeDecodeError as wrong:
                return DataError(
                    "the file is not UTF-8 text",
                    where=f"{self.name}, line {number}, byte {wrong.start + 1}",
                    found=f"byte 0x{line[wrong.start]:02x}",
                    expected="UTF-8",
                    fix=f"convert it: iconv -f latin1 -t utf-8 {self.path.name}",
                )
        return DataError("the file is not UTF-8 text", where=self.name, expected="UTF-8")

    def line_column(self) -> pl.Series:
        """Every line as a string."""
        import polars as pl

        try:
            table = pl.read_csv(
                self.for_polars(),
                has_header=False,
                separator=_NOWHERE,
                quote_char=None,
                infer_schema=False,
                truncate_ragged_lines=True,
            )
        except pl.exceptions.PolarsError as broken:
            raise self.complaint(broken) from None
        return table.to_series(0)

    def complaint(self, broken: Exception) -> DataError:
        """What polars could not parse, as an error with a place."""
        if "utf-8" in str(broken).lower():
            return self.not_utf8()
        return DataError(
            "the file cannot be parsed as a table",
            where=self.name,
            found=str(broken).split("\n")[0],
            expected="rows with one delimiter, quotes closed",
            fix="check the delimiter and the quotes",
        )


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError("there is no such file", where=str(path), fix="check the path") from None
    except IsADirectoryError:
        raise DataError(
            "this is a folder, not a file",
            where=str(path),
            expected="a file, or a folder in a known layout",
            fix="name the file inside it",
        ) from None
    except PermissionError:
        raise DataError(
            "the file may not be read", where=str(path), fix="change its permissions (chmod u+r)"
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as broken:
        raise DataError(
            "the gzip file is damaged or cut short",
            where=str(path),
            found=str(broken),
            expected="a whole gzip stream",
            fix="fetch or copy the file again",
        ) from None


def bare_suffix(path: Path) -> str:
    """The suffix below .gz, in lower case: '.csv' for ratings.csv.gz."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def peek(path: Path, lines: int = 20) -> list[str]:
    """The first lines of a file for recognising a layout: never raises, empty when there are none."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            text = stream.read(1 << 14).decode("utf-8-sig", errors="ignore")
    except (OSError, EOFError, zlib.error):
        return []
    found = text.splitlines()
    return (found if len(text) < 1 << 13 else found[:-1])[:lines]
