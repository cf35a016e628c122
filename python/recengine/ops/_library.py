"""Loads the native operators, and remembers why not when they cannot be loaded.

Importing recengine never fails because of native code: every operator has a plain-torch reference,
which runs wherever no kernel does. ``recengine doctor`` prints what this module knows.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from torch.autograd import forward_ad


@dataclass(frozen=True)
class NativeState:
    """cpu / cuda: whether kernels are live there; isa: instruction set; reason: why not, or ''."""

    cpu: bool
    cuda: bool
    isa: str
    reason: str
    cuda_reason: str


def _load(module: str) -> str:
    """Load one shared object; '' on success, else the reason."""
    # find_spec, not __file__: in an editable install the libraries lie in the build folder.
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return f"{module} was not built into this installation"
    try:
        torch.ops.load_library(spec.origin)  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"{spec.origin}: {error}"
    return ""


@cache
def native() -> NativeState:
    """Load what can be loaded, once."""
    if os.environ.get("RECENGINE_NATIVE") == "0":
        return NativeState(False, False, "none", "switched off by RECENGINE_NATIVE=0", "switched off")
    reason = _load("recengine._ops")
    if reason:
        return NativeState(False, False, "none", reason, "the CPU operators are not loaded")
    cuda_reason = _load("recengine._ops_cuda") if torch.version.cuda else "this torch is a CPU build"
    return NativeState(True, not cuda_reason, torch.ops.recengine.isa(), "", cuda_reason)


def _live(device: str) -> bool:
    return native().cpu if device == "cpu" else device == "cuda" and native().cuda


# A fact of the process: the compiler may take it as a constant. This is what assume_constant_result of
# torch.compiler does, without importing the compiler (3 s and 70 MB in a process that never compiles).
_live._dynamo_marked_constant = True  # type: ignore[attr-defined]


def has_kernel(tensor: torch.Tensor) -> bool:
    """Whether a kernel is live for the device that ``tensor`` is on. None is while derivatives are taken in
    forward mode, which kernels do not know (the tangent would be zero) and the references do."""
    return bool(_live(tensor.device.type)) and forward_ad._current_level < 0


def has_cpu_kernel(tensor: torch.Tensor) -> bool:
    """The same for an operator that has a kernel on the CPU alone, whatever else is live."""
    return tensor.device.type == "cpu" and has_kernel(tensor)


def differentiable_once(name: str, *backward: str) -> None:
    """Say of the operators of a backward pass that they have no gradient themselves: autograd would take it
    for zero. ``name``: what the caller called."""
    for op in backward:
        refuse: Any = partial(_refuse, name)
        torch.library.register_autograd(f"recengine::{op}", refuse, setup_context=_save_nothing)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Of a pass that is not differentiated again."""


def _refuse(name: str, ctx: Any, *grads: Any) -> None:
    raise RuntimeError(f"{name} has no second derivative; use float64, where the reference runs")
