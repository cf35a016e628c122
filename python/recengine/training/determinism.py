"""What makes a run repeatable bit for bit: seeds from counters, and arithmetic of a fixed shape.

Random numbers. Step s of epoch e in process r draws from a generator seeded with a hash of
(seed, e, s, r). Nothing is carried from step to step, so a resumed run continues with the same numbers.

Threads. On a CPU the sums inside a matrix product over a long inner dimension, a LayerNorm's weight
gradient or a ``sum()`` are grouped by the number of threads, and so are their last bits. The gradient
loop therefore computes with a fixed number of threads (one), whatever the machine or OMP_NUM_THREADS.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

THREADS = 1


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


@contextmanager
def fixed_threads(device: torch.device) -> Iterator[None]:
    """On a CPU, compute with THREADS threads inside."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
