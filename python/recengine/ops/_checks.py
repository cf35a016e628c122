"""Checks of arguments where no kernel makes them: what a kernel says, in its words.

Sizes and dtypes are compared always, values only where that waits for nothing and nobody traces: of plain
tensors on the CPU, outside of dispatch modes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def readable(tensor: Tensor) -> bool:
    """Whether the values of ``tensor`` can be looked at here and now."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and tensor.device.type == "cpu"
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and not torch._C._functorch.is_batchedtensor(tensor)
    )


def dtype_name(tensor: Tensor) -> str:
    """As messages write it."""
    return str(tensor.dtype).removeprefix("torch.")


def need_shape(op: str, name: str, tensor: Tensor | None, shape: Sequence[int]) -> None:
    """RuntimeError unless ``tensor`` has this ``shape``; None passes."""
    if tensor is None:
        return
    if tensor.dim() != len(shape):
        raise RuntimeError(f"{op}: {name} has {tensor.dim()} dimensions, expected {len(shape)}")
    for axis, size in enumerate(shape):
        if torch.compiler.is_compiling():
            # torch._check: a size may be known to the running graph alone.
            torch._check(tensor.shape[axis] == size)  # type: ignore[no-untyped-call]
        elif tensor.shape[axis] != size:
            found = tensor.shape[axis]
            raise RuntimeError(f"{op}: {name} has size {found} in dimension {axis}, expected {size}")


def need_dimensions(op: str, name: str, tensor: Tensor, dimensions: int) -> None:
    """RuntimeError unless ``tensor`` has so many."""
    if tensor.dim() != dimensions:
        raise RuntimeError(f"{op}: {name} has {tensor.dim()} dimensions, expected {dimensions}")


def need_dtype(op: str, name: str, tensor: Tensor | None, dtype: torch.dtype) -> None:
    """RuntimeError unless ``tensor`` is of ``dtype``; None passes."""
    if tensor is not None and tensor.dtype != dtype:
        expected = str(dtype).removeprefix("torch.")
        raise RuntimeError(f"{op}: {name} must be {expected}, found {dtype_name(tensor)}")


def need_floating(op: str, **tensors: Tensor | None) -> None:
    """RuntimeError naming the first tensor that is not floating point; None passes."""
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_floating_point():
            raise RuntimeError(f"{op}: {name} must be floating point, found {dtype_name(tensor)}")


def need_device(op: str, name: str, like: Tensor, **others: Tensor | None) -> None:
    """RuntimeError naming the first of ``others`` that is on another device than ``like``, the argument
    ``name``; None passes. A kernel would read an address of the other's memory."""
    for other, tensor in others.items():
        if tensor is not None and tensor.device != like.device:
            found = f"{other} is on {tensor.device}"
            raise RuntimeError(f"{op}: {found}, expected {like.device}, where {name} is")


def need_at_least(op: str, name: str, value: float, low: float, below: float = math.inf) -> None:
    """RuntimeError unless ``low <= value < below`` (NaN and infinity are not)."""
    if not low <= value < below:
        until = "a finite number" if below == math.inf else f"less than {below:g}"
        raise RuntimeError(f"{op}: {name} is {value}, expected at least {low:g} and {until}")


def need_operands(op: str, left_name: str, left: Tensor, right_name: str, right: Tensor) -> None:
    """RuntimeError unless two operands of a product of rows with rows fit."""
    need_floating(op, **{left_name: left, right_name: right})
    need_device(op, left_name, left, **{right_name: right})
    need_dimensions(op, left_name, left, 2)
    need_dimensions(op, right_name, right, 2)
    need_shape(op, right_name, right, (right.shape[0], left.shape[1]))
    if right.dtype != left.dtype:
        found = f"{dtype_name(right)} and {dtype_name(left)}"
        raise RuntimeError(f"{op}: {right_name} and {left_name} must have the same dtype, found {found}")


def need_range(op: str, name: str, values: Tensor | None, low: int, high: int) -> None:
    """RuntimeError with the first place where an integer is not ``low`` to ``high``."""
    if values is None or not readable(values) or not values.numel():
        return
    least, most = (int(bound) for bound in values.aminmax())
    if low <= least and most <= high:
        return
    place = ((values < low) | (values > high)).nonzero()[0].tolist()
    found = int(values[tuple(place)])
    raise RuntimeError(f"{op}: {name}{place} is {found}, expected {low} to {high}")


def need_positive(op: str, name: str, value: float | Tensor | None) -> None:
    """RuntimeError unless a number, or every element of a vector, is above zero (NaN is not)."""
    if isinstance(value, Tensor):
        if readable(value) and not bool((value > 0).all()):
            place = int((~(value > 0)).nonzero()[0, 0])
            found = f"{name}[{place}] is {float(value[place])}"
            raise RuntimeError(f"{op}: {found}, expected a positive number")
    elif value is not None and not value > 0:
        raise RuntimeError(f"{op}: {name} must be above 0, found {value}")


def need_bounds(op: str, name: str, bounds: Tensor, last: int) -> None:
    """RuntimeError unless ``bounds`` rise from 0 to ``last``."""
    if not readable(bounds):
        return
    if not bounds.numel():
        raise RuntimeError(f"{op}: {name} is empty, expected one more element than there are sequences")
    first, final = int(bounds[0]), int(bounds[-1])
    if first != 0 or final != last:
        raise RuntimeError(f"{op}: {name} must run from 0 to {last}, found {first} and {final}")
    falls = (bounds.diff() < 0).nonzero()
    if falls.numel():
        raise RuntimeError(f"{op}: {name} falls at {int(falls[0, 0]) + 1}")


def need_ascending(op: str, name: str, rows: Tensor, count: int) -> None:
    """RuntimeError unless ``rows`` are rows of ``count``, each above the one before it."""
    if not readable(rows):
        return
    before = torch.nn.functional.pad(rows[:-1], (1, 0), value=-1)
    wrong = ((rows <= before) | (rows >= count)).nonzero()
    if wrong.numel():
        place = int(wrong[0, 0])
        expected = f"{int(before[place]) + 1} to {count - 1} (rows ascend)"
        raise RuntimeError(f"{op}: {name}[{place}] is {int(rows[place])}, expected {expected}")
