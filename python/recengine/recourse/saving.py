"""A classifier on disk: ``recourse.json`` and ``model.safetensors``, nothing executable, no training rows."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from recengine.contracts.recourse import Classifier
from recengine.errors import CheckpointError, UsageError
from recengine.recourse.columns import Columns
from recengine.recourse.representations import Affine, Layer, Layers

Array = NDArray[np.float64]
_FORMAT, _VERSIONS = "recengine recourse model", (1, 2)  # 2: with refits


@dataclass(frozen=True)
class SavedModel:
    """classifier; columns of the table it reads (None: plain numbers); target: index of the class that people
    want; label: name of the label column; state: what the method needs to answer without training rows;
    refits: the same kind of classifier fitted again, which has to accept, too."""

    classifier: Classifier
    columns: Columns | None
    target: int
    label: str | None = None
    state: dict[str, Array] = field(default_factory=dict)
    refits: tuple[Classifier, ...] = ()


def save_model(model: SavedModel, folder: Path) -> None:
    """Write the folder; each file is there whole or not at all. Raises UsageError for a traced module."""
    classifier = model.classifier
    arrays: dict[str, Array] = {f"state.{name}": np.asarray(value) for name, value in model.state.items()}
    kinds = _store(classifier, "", arrays)
    again = [_store(one, f"refit.{k}.", arrays) for k, one in enumerate(model.refits)]
    about: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSIONS[bool(again)],
        "linear": isinstance(classifier.representation, Affine),
        "layers": kinds,
        "classes": [_plain(one) for one in classifier.classes],
        "names": list(classifier.names),
        "l2": classifier.l2,
        "target": model.target,
        "label": model.label,
        "columns": None if model.columns is None else model.columns.as_dict(),
    }
    if again:
        about["refits"] = again
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: np.ascontiguousarray(array, dtype=np.float64) for name, array in arrays.items()}
    _put(folder / "model.safetensors", save(plain))
    _put(folder / "recourse.json", (json.dumps(about, indent=1, allow_nan=False) + "\n").encode())


def load_model(folder: Path) -> SavedModel:
    """Read a folder of ``save_model``. Raises CheckpointError naming what is missing or damaged."""
    try:
        about: dict[str, Any] = json.loads((folder / "recourse.json").read_text(encoding="utf-8"))
        arrays = load_file(folder / "model.safetensors")
    except FileNotFoundError as missing:
        raise CheckpointError(
            "this is no saved recourse model", where=str(missing.filename or folder)
        ) from missing
    except (ValueError, SafetensorError) as broken:
        raise CheckpointError("the saved model is damaged", where=str(folder), found=str(broken)) from broken
    if about.get("format") != _FORMAT or about.get("version") not in _VERSIONS:
        raise CheckpointError(
            "not a model that this version reads",
            where=str(folder),
            found=f"{about.get('format')}, version {about.get('version')}",
            expected=f"{_FORMAT}, version {_VERSIONS[0]} or {_VERSIONS[1]}",
        )
    try:
        classifier = _restored(about, about["layers"], "", arrays)
        refits = tuple(
            _restored(about, kinds, f"refit.{k}.", arrays) for k, kinds in enumerate(about.get("refits", ()))
        )
        columns = None if about["columns"] is None else Columns.from_dict(about["columns"])
        state = {n.removeprefix("state."): a for n, a in arrays.items() if n.startswith("state.")}
        return SavedModel(classifier, columns, int(about["target"]), about["label"], state, refits)
    except (KeyError, IndexError, TypeError) as broken:
        raise CheckpointError("the saved model is damaged", where=str(folder), found=repr(broken)) from broken


def _store(classifier: Classifier, prefix: str, arrays: dict[str, Array]) -> list[dict[str, Any]]:
    """Put the arrays of a classifier beside the others; what its layers are."""
    phi = classifier.representation
    if isinstance(phi, Affine):
        layers = [Layer(phi.B, phi.c)]
    elif isinstance(phi, Layers):
        layers = list(phi.layers)
    else:
        raise UsageError(
            "only plain layers can be saved", found=type(phi).__name__, fix="keep the module in Python"
        )
    for k, layer in enumerate(layers):
        arrays[f"{prefix}layer.{k}.W"], arrays[f"{prefix}layer.{k}.b"] = layer.W, layer.b
    if classifier.weights is not None:
        arrays[f"{prefix}weights"] = classifier.weights
    return [{"slopes": layer.slopes, "smooth": layer.smooth} for layer in layers]


def _restored(
    about: dict[str, Any], kinds: list[dict[str, Any]], prefix: str, arrays: dict[str, Array]
) -> Classifier:
    layers = tuple(
        Layer(
            arrays[f"{prefix}layer.{k}.W"],
            arrays[f"{prefix}layer.{k}.b"],
            None if one["slopes"] is None else (float(one["slopes"][0]), float(one["slopes"][1])),
            one["smooth"],
        )
        for k, one in enumerate(kinds)
    )
    phi = Affine(layers[0].W, layers[0].b) if about["linear"] else Layers(layers)
    weights = arrays.get(f"{prefix}weights")
    return Classifier(phi, tuple(about["classes"]), tuple(about["names"]), weights, about["l2"])


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _put(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
