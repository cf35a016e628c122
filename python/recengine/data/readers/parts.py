"""Folders that come already divided: LightGCN lists, IR-Benchmark folders, MMRec folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recengine.data.interactions import Interactions
from recengine.data.readers.report import ReadReport
from recengine.data.readers.sequences import ragged, ragged_columns
from recengine.data.readers.source import Source
from recengine.data.readers.tables import Columns, read_columns
from recengine.data.splitting import TEST, TRAIN, VALIDATION, split_parts
from recengine.errors import DataError

_NAMES = {TRAIN: ("train",), VALIDATION: ("valid", "validation", "val"), TEST: ("test",)}


class LightGCN:
    """A folder with train.txt and test.txt (perhaps valid.txt), 'user item item ...' a line, in no order."""

    name = "lightgcn"

    def recognises(self, path: Path) -> bool:
        """See contracts.dataset.Reader."""
        train = _find(path, "train", (".txt",))
        return train is not None and _has_test(path, (".txt",)) and ragged(train)

    def read(
        self, path: Path, *, test: str | None = None, seed: int = 0, report: ReadReport | None = None
    ) -> Interactions:
        """test: name of the test file without its suffix, where there are several. Raises DataError."""
        told = report or ReadReport()
        files = _files(path, (".txt",), test, told)
        columns = {part: ragged_columns(Source(file), empty_lines=True) for part, file in files.items()}
        return _joined(columns, seed, told)


class IRBench:
    """A folder with train and test (perhaps valid) as .tsv or .csv tables with a header line."""

    name = "irbench"
    _suffixes = (".tsv", ".csv")

    def recognises(self, path: Path) -> bool:
        """See contracts.dataset.Reader."""
        return _find(path, "train", self._suffixes) is not None and _has_test(path, self._suffixes)

    def read(
        self,
        path: Path,
        *,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        weight: str | None = None,
        test: str | None = None,
        seed: int = 0,
        report: ReadReport | None = None,
    ) -> Interactions:
        """Columns as in the reader 'table'. Raises DataError with file, line and column."""
        told = report or ReadReport()
        names = {"user": user, "item": item, "time": time, "weight": weight}
        files = _files(path, self._suffixes, test, told)
        columns = {part: read_columns(Source(file), names, ReadReport()) for part, file in files.items()}
        return _joined(columns, seed, told)


class MMREC:
    """A folder with NAME.inter, whose column x_label says 0 train, 1 validation, 2 test; features as .npy
    beside it (their names are reported, they are not loaded)."""

    name = "mmrec"

    def recognises(self, path: Path) -> bool:
        """See contracts.dataset.Reader."""
        file = _inter(path)
        return file is not None and "x_label" in _first_line(file)

    def read(self, path: Path, *, seed: int = 0, report: ReadReport | None = None) -> Interactions:
        """Raises DataError with file, line and column."""
        told = report or ReadReport()
        file = _inter(path)
        if file is None:
            raise DataError("there is no .inter file", where=str(path), expected="NAME.inter")
        features = sorted(entry.name for entry in path.glob("*.npy"))
        told.say("features beside it: " + (", ".join(features) or "none"))
        given: dict[str, str | None] = {"user": None, "item": None, "time": None, "weight": None}
        columns = read_columns(Source(file), given, told, part="x_label", delimiter="\t", header=True)
        if columns.part is not None and not bool(np.isin(columns.part, (TRAIN, VALIDATION, TEST)).all()):
            row = int(np.argmin(np.isin(columns.part, (TRAIN, VALIDATION, TEST))))
            raise DataError(
                "a part is none of the three",
                where=f"{file}, line {row + 2}, column 'x_label'",
                found=int(columns.part[row]),
                expected="0 (train), 1 (validation) or 2 (test)",
            )
        return columns.interactions("hash", seed)


def _joined(columns: dict[int, Columns], seed: int, report: ReadReport) -> Interactions:
    parts = {part: column.interactions("hash", seed) for part, column in columns.items()}
    report.rows = sum(len(part) for part in parts.values())
    return split_parts(parts[TRAIN], parts[TEST], parts.get(VALIDATION))


def _files(folder: Path, suffixes: tuple[str, ...], test: str | None, report: ReadReport) -> dict[int, Path]:
    found = {}
    for part, names in _NAMES.items():
        wanted = (test,) if part == TEST and test else names
        files = [file for name in wanted if (file := _find(folder, name, suffixes)) is not None]
        if files:
            found[part] = files[0]
    missing = [_NAMES[part][0] for part in (TRAIN, TEST) if part not in found]
    if missing:
        others = sorted(file.name for file in folder.glob("test*") if folder.is_dir())
        raise DataError(
            f"there is no {missing[0]} file",
            where=str(folder),
            found=", ".join(others) or None,
            expected=f"{missing[0]}{suffixes[0]} (or .gz)",
            fix=f"name one: test='{others[0].split('.')[0]}'" if others else "check the folder",
        )
    report.say("parts: " + ", ".join(f"{_NAMES[part][0]} = {file.name}" for part, file in found.items()))
    return found


def _find(folder: Path, name: str, suffixes: tuple[str, ...]) -> Path | None:
    candidates = [folder / f"{name}{suffix}{packed}" for suffix in suffixes for packed in ("", ".gz")]
    return next((file for file in candidates if file.is_file()), None)


def _has_test(folder: Path, suffixes: tuple[str, ...]) -> bool:
    return any(
        file.name.removesuffix(".gz").endswith(suffixes) for file in folder.glob("test*") if file.is_file()
    )


def _inter(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    return next(
        (file for file in sorted(folder.iterdir()) if file.name.endswith((".inter", ".inter.gz"))), None
    )


def _first_line(file: Path) -> str:
    try:
        return Source(file).head(1)[0]
    except (DataError, IndexError):
        return ""
