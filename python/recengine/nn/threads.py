"""One thread for arithmetic that threads would change, all of them for operators that they do not.

On a CPU the sums inside torch's matrix products over a long inner dimension, LayerNorm's weight gradient or
``sum()`` are grouped by the number of threads, and so are their last bits. Training therefore runs inside
``one_thread()``. The native operators cut their work by shapes alone; ``all_threads`` gives them back the
threads that were there before, in the forward pass and in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_outside: list[int] = []  # threads before each one_thread() that is open


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes with one thread inside."""
    _outside.append(torch.get_num_threads())
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(_outside.pop())


def all_threads(function: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """function(*operands) with the threads from before ``one_thread()``, its gradients too.

    ``function`` must be a native operator (or several) whose result does not depend on the number of
    threads. Outside of ``one_thread()``, and where no gradient is wanted of two threads, it is just called.
    """
    if not _outside or _outside[-1] == 1 or operands[0].device.type != "cpu":
        return function(*operands)
    entered = _Enter.apply(_outside[-1], *operands)  # type: ignore[no-untyped-call]
    try:
        left: Tensor = _Leave.apply(_outside[-1], function(*entered))  # type: ignore[no-untyped-call]
    finally:
        torch.set_num_threads(1)
    return left


@contextmanager
def threads_from_outside(device: torch.device) -> Iterator[None]:
    """The threads from before ``one_thread()`` inside, for native operators of which no gradient is wanted.
    Outside of ``one_thread()``, and where ``device`` is no CPU, nothing changes."""
    if not _outside or _outside[-1] == 1 or device.type != "cpu":
        yield
        return
    torch.set_num_threads(_outside[-1])
    try:
        yield
    finally:
        torch.set_num_threads(1)


class _Enter(torch.autograd.Function):
    """First forward, last backward: its backward waits for the gradients of all operands."""

    @staticmethod
    def forward(ctx: Any, threads: int, *operands: Tensor) -> tuple[Tensor, ...]:
        torch.set_num_threads(threads)
        return tuple(operand.view_as(operand) for operand in operands)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        torch.set_num_threads(1)
        return None, *grads


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, threads: int, value: Tensor) -> Tensor:
        ctx.threads = threads
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        torch.set_num_threads(ctx.threads)
        return None, grad
