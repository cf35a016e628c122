"""A click model as a program of its own: torch.export, loaded again without recengine's Python classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recengine.contracts.batch import FeatureBatch
from recengine.errors import UsageError
from recengine.files import write_with
from recengine.nn.features import Features


class Probabilities(nn.Module):
    """features to the probability of a click, float [B]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Features) -> Tensor:
        return torch.sigmoid(self.model(features))


def export_ranker(model: nn.Module, example: FeatureBatch) -> torch.export.ExportedProgram:
    """The program of ``model`` (a ClickModel) for batches of any number of rows.

    example: two rows or more, from which the shapes of the features are taken. Operators of recengine stay
    operators: whoever runs the program imports ``recengine.ops`` first.
    Raises UsageError for an example of fewer rows.
    """
    if example.labels.shape[0] < 2:
        raise UsageError(
            "an example needs two rows or more", where="export_ranker", found=len(example.labels)
        )
    model.eval()
    rows = torch.export.Dim("rows", min=1)
    shapes: dict[str, Any] = {}
    for at, (name, given) in enumerate(example.features.items()):
        one = isinstance(given, Tensor)
        shapes[name] = {0: rows} if one else ({0: torch.export.Dim(f"values_{at}", min=1)}, {0: rows + 1})
    with torch.no_grad():
        return torch.export.export(
            Probabilities(model), (example.features,), dynamic_shapes=(shapes,), strict=False
        )


def save_program(program: torch.export.ExportedProgram, path: Path) -> Path:
    """Write the program to ``path`` (.pt2), whole or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            torch.export.save(program, file)

    write_with(path, write)
    return path


def load_program(path: Path) -> Any:
    """The module of a saved program: ``module(features)`` gives probabilities."""
    import recengine.ops.embedding
    import recengine.ops.moe
    import recengine.ops.token_mixing  # noqa: F401  the operators must be known

    with path.open("rb") as file:
        return torch.export.load(file).module()
