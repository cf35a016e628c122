"""Memory of large results: kept for the next ones, never shared by two, with a bound."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from recengine.ops import keep_memory, token_mix
from recengine.ops._library import native

pytestmark = pytest.mark.skipif(
    not native().cpu or sys.platform != "linux", reason="the native operators keep memory on Linux"
)
SHAPE, HEADS = (256, 16, 512), 16  # 8 MB


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    before = keep_memory(True)
    yield
    keep_memory(before)


def large(value: float = 1.0, samples: int = SHAPE[0]) -> torch.Tensor:
    return token_mix(torch.full((samples, *SHAPE[1:]), value), HEADS)


def test_memory_of_a_tensor_that_is_gone_serves_the_next_one() -> None:
    first = large()
    at = first.data_ptr()
    del first
    assert large(2.0).data_ptr() == at
    assert at % (1 << 21) == 0


def test_tensors_that_live_share_nothing() -> None:
    first = large(1.0)
    view = first[0]
    second = large(2.0)
    del first
    third = large(3.0)
    assert len({view.data_ptr(), second.data_ptr(), third.data_ptr()}) == 3
    for tensor, value in ((view, 1.0), (second, 2.0), (third, 3.0)):
        assert (tensor == value).all()


def test_a_smaller_result_takes_a_block_that_wastes_little() -> None:
    first = large()
    at = first.data_ptr()
    del first
    little_less = large(samples=SHAPE[0] - 16)
    assert little_less.data_ptr() == at
    assert little_less.shape[0] == SHAPE[0] - 16


def test_switched_off_nothing_is_kept() -> None:
    held = large(1.0)
    assert keep_memory(False) is True
    assert keep_memory(False) is False
    assert (held == 1.0).all()
    del held  # its block goes back to the system
    assert (large(2.0) == 2.0).all()


def test_gradients_are_kept_and_right() -> None:
    x = torch.randn(SHAPE, requires_grad=True)
    weight = torch.randn(SHAPE)
    for _ in range(3):
        x.grad = None
        (token_mix(x, HEADS) * weight).sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(token_mix(x.grad, HEADS), weight, rtol=0, atol=0)


def test_threads_share_the_blocks_and_no_tensor() -> None:
    def work(seed: int) -> bool:
        mine = [large(float(seed + i)) for i in range(3)]
        return all(bool((one == seed + i).all()) for i, one in enumerate(mine))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(0, 160, 10)))


FAULTS = """
import resource, torch
from recengine.ops import token_mix
x = torch.ones(1024, 16, 512)
def faults(n):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n): token_mix(x, 16)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(3)
print(faults(20))
"""
PEAK = """
import torch
from recengine.ops import token_mix
def status(key):
    return next(int(l.split()[1]) // 1024 for l in open('/proc/self/status') if l.startswith(key))
x = torch.ones(2048, 16, 512)
token_mix(x, 16)
before = status('VmSize')
for samples in list(range(1024, 2048, 48)) * 2: token_mix(x[:samples], 16)
print(status('VmSize') - before)
"""
FORK = """
import os, threading, torch
from recengine.ops import token_mix
x = torch.ones(256, 16, 512)
def busy():
    while True: token_mix(x, 16)
for _ in range(2): threading.Thread(target=busy, daemon=True).start()
for _ in range(8):
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        os._exit(0 if all((token_mix(x, 16) == 1).all() for _ in range(3)) else 1)
    assert os.waitpid(child, 0)[1] == 0
os._exit(0)
"""


def run(program: str, **environment: str) -> str:
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return found.stdout.split()[-1] if found.stdout else ""


def test_results_fault_no_pages_in() -> None:
    assert int(run(FAULTS)) < 20
    assert int(run(FAULTS, RECENGINE_KEEP_MEMORY="0")) > 20 * 8


def test_never_more_than_half_again_of_what_was_in_use_at_a_time() -> None:
    assert int(run(PEAK)) <= 32 + 8  # MB; a result has 32 to 64


def test_a_forked_child_computes() -> None:
    run(FORK)
