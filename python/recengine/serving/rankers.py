"""A click model as a program of its own: torch.export, loaded again without recengine's Python classes."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recengine.contracts.batch import FeatureBatch
from recengine.errors import UsageError
from recengine.files import write_bytes
from recengine.nn.features import Features


class Probabilities(nn.Module):
    """features to the probability of a click, float [B]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Features) -> Tensor:
        return torch.sigmoid(self.model(features))


def export_ranker(model: nn.Module, example: FeatureBatch) -> torch.export.ExportedProgram:
    """The program of ``model`` (a ClickModel) for batches of two rows or more (``Program`` takes one, too).

    example: two rows or more, from which the shapes of the features are taken. Operators of recengine stay
    operators: whoever runs the program imports ``recengine.ops`` first.
    Raises UsageError for an example of fewer rows.
    """
    if example.labels.shape[0] < 2:
        raise UsageError(
            "an example needs two rows or more", where="export_ranker", found=len(example.labels)
        )
    model.eval()
    rows = torch.export.Dim("rows", min=2)
    shapes: dict[str, Any] = {}
    for at, (name, given) in enumerate(example.features.items()):
        one = isinstance(given, Tensor)
        shapes[name] = {0: rows} if one else ({0: torch.export.Dim(f"values_{at}", min=2)}, {0: rows + 1})
    with torch.no_grad():
        return torch.export.export(
            Probabilities(model), (example.features,), dynamic_shapes=(shapes,), strict=False
        )


def save_program(program: torch.export.ExportedProgram, path: Path) -> Path:
    """Write the program to ``path`` (.pt2), whole or not at all."""
    made = io.BytesIO()  # torch's own writer answers a full disk with a stack of C++ frames
    torch.export.save(program, made)
    write_bytes(path, made.getvalue())
    return path


def save_package(program: torch.export.ExportedProgram, path: Path) -> Path:
    """Compile the program for this kind of machine (AOTInductor) and write the package to ``path`` (.pt2),
    whole or not at all. Raises UsageError where it does not compile (a C++ compiler is needed)."""

    made = io.BytesIO()
    try:
        with warnings.catch_warnings():  # of torch about itself
            warnings.simplefilter("ignore", FutureWarning)
            torch._inductor.aoti_compile_and_package(program, package_path=made)
    except Exception as failed:
        raise UsageError(
            "the program could not be compiled",
            where="AOTInductor",
            found=f"{type(failed).__name__}: {(str(failed).splitlines() or [''])[0]}",
            fix="install a C++ compiler (g++), or export without compiling",
        ) from failed
    write_bytes(path, made.getvalue())
    return path


def load_package(path: Path) -> Program:
    """What ``save_package`` wrote on this kind of machine."""
    _operators()
    return Program(torch._inductor.aoti_load_package(str(path)))


class Program:
    """A program for any number of rows: ``program(features)`` gives probabilities, float [B].

    torch.export makes a program for one row or for more; a single row is computed twice.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, features: Features) -> Tensor:
        first = next(iter(features.values()))
        rows = first.shape[0] if isinstance(first, Tensor) else first[1].shape[0] - 1
        if rows != 1:
            found: Tensor = self.module(features)
            return found
        both: Tensor = self.module({name: _twice(given) for name, given in features.items()})
        return both[:1]


def _twice(given: Tensor | tuple[Tensor, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
    if isinstance(given, Tensor):
        return torch.cat([given, given])
    values, offsets = given
    return torch.cat([values, values]), torch.cat([offsets, offsets[1:] + offsets[-1:]])


def load_program(path: Path) -> Program:
    """What ``save_program`` wrote."""
    _operators()
    with path.open("rb") as file:
        return Program(torch.export.load(file).module())


def _operators() -> None:
    """Makes recengine's operators known, which a program may contain."""
    import recengine.ops.embedding
    import recengine.ops.moe
    import recengine.ops.token_mixing  # noqa: F401
