"""Checkpoints: tensors in safetensors, everything else in JSON; no pickle is written or read.

A checkpoint ``NAME`` is two files in a folder, ``NAME.safetensors`` and ``NAME.json`` (which holds the
digest of the first). Both are whole on disk before the pointer file ``latest`` is renamed to name them,
and what ``latest`` named before is removed only after that: a process killed at any moment leaves a
``latest`` that loads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from recengine.errors import CheckpointError
from recengine.files import write_bytes, write_json, write_with
from recengine.training.adam import Adam

FORMAT = 1
LATEST = "latest"
_MEND = "restore it from a copy, or train again"
Record = TypeVar("Record")


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write ``tensors``, whole or not at all; returns the SHA-256 of the file."""
    alone = _separate(tensors)
    digest = ""

    def write(temporary: Path) -> None:
        nonlocal digest
        save_file(alone, temporary)
        digest = digest_of(temporary)

    write_with(path, write)
    return digest


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the file that ``save_tensors`` would write."""
    return hashlib.sha256(save(_separate(tensors))).hexdigest()


def load_tensors(path: Path, digest: str | None = None) -> dict[str, Tensor]:
    """Tensors of a file; raises CheckpointError when it is missing, damaged, or not what ``digest`` says."""
    if not path.is_file():
        raise CheckpointError("there is no such file", where=str(path), fix=_MEND)
    if digest is not None and (found := digest_of(path)) != digest:
        raise CheckpointError(
            "the file is damaged",
            where=str(path),
            found=f"sha256 {found[:16]}…",
            expected=f"{digest[:16]}…",
            fix=_MEND,
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as broken:
        raise CheckpointError(
            "the file cannot be read as safetensors",
            where=str(path),
            found=str(broken),
            fix=_MEND,
        ) from broken


def save_checkpoint(folder: Path, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Save the checkpoint ``name`` and make it the latest; older ones go afterwards.

    Raises OSError (disk full, no permission) with the older checkpoint still in place and still latest.
    """
    try:
        digest = save_tensors(folder / f"{name}.safetensors", tensors)
        write_json(folder / f"{name}.json", {"format": FORMAT, "sha256": digest, **facts})
        write_bytes(folder / LATEST, f"{name}\n".encode())
    except OSError:
        if latest_name(folder) != name:
            _remove(folder, name)
        raise
    for old in folder.glob("step-*.json"):
        if old.stem != name:
            _remove(folder, old.stem)
    return folder / f"{name}.json"


def load_latest(folder: Path, entries: Sequence[str] = ()) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts of the latest checkpoint, or None where nothing was ever saved. The facts hold an
    object for each of ``entries``.

    Raises CheckpointError when there is one but it cannot be used.
    """
    name = latest_name(folder)
    if name is None:
        return None
    facts = load_json(folder / f"{name}.json")
    if facts.get("format") != FORMAT:
        raise CheckpointError(
            "the checkpoint has another format", where=str(folder), found=facts.get("format"), expected=FORMAT
        )
    missing = [entry for entry in entries if not isinstance(facts.get(entry), dict)]
    if missing or not isinstance(facts.get("sha256"), str):
        raise CheckpointError(
            "the record of the checkpoint lacks an entry",
            where=str(folder / f"{name}.json"),
            found="no " + ", ".join(missing or ["sha256"]),
            fix=_MEND,
        )
    return load_tensors(folder / f"{name}.safetensors", facts["sha256"]), facts


def latest_name(folder: Path) -> str | None:
    """What the pointer names, or None without a pointer."""
    pointer = folder / LATEST
    return pointer.read_text().strip() if pointer.is_file() else None


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises CheckpointError when it is missing or damaged."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError("there is no such file", where=str(path), fix=_MEND) from None
    except (OSError, ValueError) as broken:
        raise CheckpointError("cannot be read", where=str(path), found=str(broken), fix=_MEND) from broken
    if not isinstance(content, dict):
        raise CheckpointError("is not a JSON object", where=str(path), found=type(content).__name__)
    return content


def load_lines(path: Path) -> list[dict[str, Any]]:
    """JSON objects, one a line; raises CheckpointError when the file is missing or damaged."""
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        raise CheckpointError("there is no such file", where=str(path), fix=_MEND) from None
    except (OSError, ValueError) as broken:
        raise CheckpointError("cannot be read", where=str(path), found=str(broken), fix=_MEND) from broken
    return record(list[dict[str, Any]], lines, str(path))


def record(kind: type[Record], content: Any, where: str) -> Record:
    """``content`` of a JSON file as a ``kind`` (a dataclass, say); raises CheckpointError where an entry is
    missing or of another type."""
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False)[0]
        entry = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            "the record is damaged", where=where, found=f"{entry}: {first['msg']}".lstrip(": "), fix=_MEND
        ) from wrong


def optimizer_state(optimizer: torch.optim.Optimizer | Adam) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors by name and a JSON part."""
    state = optimizer.state_dict()
    tensors = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    return tensors, {"state": plain, "groups": state["param_groups"]}


def restore_optimizer(
    optimizer: torch.optim.Optimizer | Adam, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """The inverse of ``optimizer_state``; raises CheckpointError when the state is another optimiser's."""
    try:
        state: dict[int, dict[str, Any]] = {int(index): dict(held) for index, held in plain["state"].items()}
        for key, value in tensors.items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": plain["groups"]})
    except (ValueError, KeyError, TypeError, AttributeError) as wrong:
        found = f"{type(wrong).__name__}: {wrong}"
        raise CheckpointError("the optimiser's state does not fit", found=found, fix=_MEND) from wrong


def restore_module(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load a module's weights; raises CheckpointError for another model's or for NaN and infinity.

    Buffers (not parameters) may have any shape: what a model computed when it was fitted is taken as is.
    They may hold -infinity, the logarithm of nothing yet, but neither NaN nor infinity.
    Parameters take the floating dtype of the file.
    """
    parameters = dict(module.named_parameters())
    for name, value in tensors.items():
        is_buffer = name not in parameters
        if is_buffer:
            _make_room(module, name, value)
        allowed = value.nan_to_num(nan=torch.nan, posinf=torch.inf, neginf=0.0) if is_buffer else value
        if value.is_floating_point() and not bool(torch.isfinite(allowed).all()):
            raise CheckpointError(
                f"the weight '{name}' holds NaN or infinity",
                where=where,
                fix="go back to an earlier checkpoint, or train with a lower learning rate",
            )
    known = module.state_dict()
    missing = sorted(set(known) - set(tensors))
    surplus = sorted(set(tensors) - set(known))
    shapes = [
        f"{name} {list(tensors[name].shape)} (model: {list(known[name].shape)})"
        for name in known
        if name in tensors and known[name].shape != tensors[name].shape
    ]
    if missing or surplus or shapes:
        found = [f"missing {missing[:3]}"] * bool(missing) + [f"surplus {surplus[:3]}"] * bool(surplus)
        raise CheckpointError(
            "the weights belong to another model or other settings",
            where=where,
            found="; ".join([*found, *shapes[:3]]),
            expected=type(module).__name__,
            fix="load it with the settings it was saved with",
        )
    for name, parameter in parameters.items():  # trained in another precision: kept in it, not rounded
        if parameter.is_floating_point() and tensors[name].is_floating_point():
            parameter.data = parameter.data.to(tensors[name].dtype)
    module.load_state_dict(dict(tensors))


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _make_room(module: torch.nn.Module, name: str, value: Tensor) -> None:
    *path, leaf = name.split(".")
    owner = module
    for part in path:
        child = owner._modules.get(part)
        if child is None:
            return
        owner = child
    held = owner._buffers.get(leaf, value) if leaf in owner._buffers else value
    if leaf in owner._buffers and (held is None or held.shape != value.shape or held.dtype != value.dtype):
        device = value.device if held is None else held.device
        owner._buffers[leaf] = torch.empty_like(value, device=device)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, none sharing memory (safetensors refuses shared memory)."""
    seen: set[int] = set()
    alone = {}
    for name, value in tensors.items():
        value = value.detach().to("cpu").contiguous()
        place = value.untyped_storage().data_ptr()
        if place in seen and value.numel():
            value = value.clone()
        seen.add(place)
        alone[name] = value
    return alone


def _remove(folder: Path, name: str) -> None:
    for suffix in (".safetensors", ".json"):
        (folder / f"{name}{suffix}").unlink(missing_ok=True)
