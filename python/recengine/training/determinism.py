"""What makes a run repeatable bit for bit: seeds from counters, and arithmetic of a fixed shape.

Random numbers. Step s of epoch e in process r draws from a generator seeded with a hash of
(seed, e, s, r). Nothing is carried from step to step, so a resumed run continues with the same numbers.

Threads. The gradient loop computes with one thread on a CPU, except in native operators whose result does
not depend on the number of threads: see recengine.nn.threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from recengine.nn.threads import one_thread


def mix(*numbers: int) -> int:
    """A 63-bit hash of a tuple of integers (splitmix64 of each, chained)."""
    state = 0
    for number in numbers:
        state = (state ^ (number & (2**64 - 1))) + 0x9E3779B97F4A7C15 & (2**64 - 1)
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


@contextmanager
def isolated_randomness(device: torch.device) -> Iterator[None]:
    """torch's generators may be seeded inside and are put back afterwards."""
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        yield


def fixed_threads(device: torch.device) -> AbstractContextManager[None]:
    """What the loop runs inside: one thread on a CPU, nothing elsewhere."""
    return one_thread() if device.type == "cpu" else nullcontext()
