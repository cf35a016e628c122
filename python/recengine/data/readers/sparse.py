"""scipy sparse matrices (.npz), the layout of implicit. No pickle."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile, ZipFile

from recengine.data.interactions import Interactions
from recengine.data.readers.report import ReadReport
from recengine.errors import DataError


class ImplicitCSR:
    """A user-item matrix written by ``scipy.sparse.save_npz``; ids are row and column numbers."""

    name = "csr"

    def recognises(self, path: Path) -> bool:
        """See contracts.dataset.Reader."""
        if path.suffix != ".npz" or not path.is_file():
            return False
        try:
            with ZipFile(path) as archive:
                return {"shape.npy", "data.npy", "format.npy"} <= set(archive.namelist())
        except (BadZipFile, OSError):
            return False

    def read(self, path: Path, *, seed: int = 0, report: ReadReport | None = None) -> Interactions:
        """Raises DataError when the file is damaged or holds no sparse matrix."""
        from scipy.sparse import load_npz

        try:
            matrix = load_npz(path)
        except (ValueError, OSError, KeyError, BadZipFile, EOFError) as broken:
            raise DataError(
                "the file holds no sparse matrix",
                where=str(path),
                found=str(broken),
                expected="a file of scipy.sparse.save_npz",
            ) from None
        if report is not None:
            report.say(f"matrix of {matrix.shape[0]} users and {matrix.shape[1]} items")
            report.rows = int(matrix.nnz)
        return Interactions.from_csr(matrix, seed=seed)
