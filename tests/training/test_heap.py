"""What a fit has freed does not stay with the process."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from recengine.data import Interactions
from recengine.training import fit, heap


def resident() -> int:
    """Bytes of this process in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc hands free pages back when asked")
def test_free_pages_go_back_to_the_system() -> None:
    size, count = 1 << 16, 1024
    blocks = [b"\1" * size for _ in range(count)]
    pinned = blocks[::64]  # so that the heap cannot shrink by itself
    del blocks
    before = resident()
    heap.release()
    assert before - resident() > size * count // 2
    assert len(pinned) == 16


def test_a_fit_hands_them_back(ring: Interactions, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(heap, "release", lambda: calls.append(1))
    fit("sasrec", ring, settings={"training": {"epochs": 1}})
    assert calls == [1]
