"""Worker processes that know what this process knows (its plugin files, its share of the cores), and that
Ctrl-C stops in an orderly way: work under way may save itself, nothing else starts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_FIRST_POKE_S, _NEXT_POKE_S, _PATIENCE_S = 3.0, 5.0, 60.0


class Workers(ProcessPoolExecutor):
    """Fresh processes that share the processor's cores. SIGINT reaches a worker only while it works, as a
    KeyboardInterrupt; one that starts or waits does not hear it."""

    def __init__(self, workers: int, files: tuple[Path, ...] = ()) -> None:
        super().__init__(
            workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(workers, files)
        )

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        with _deaf():  # a process that is started now inherits it
            return super().submit(_hearing, fn, *args, **kwargs)


@contextmanager
def worker_pool(workers: int) -> Iterator[Workers]:
    """``workers`` fresh processes (spawned: torch's threads do not survive a fork); on KeyboardInterrupt it
    waits, a minute at most, until all of them have stopped."""
    from recengine.hooks import host

    pool = Workers(workers, tuple(path.resolve() for path in host().files))
    try:
        yield pool
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        _stop()
        raise
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


def _stop() -> None:
    """A terminal has told the workers already; those that were about to begin are told again."""
    began = time.monotonic()
    poke = began + _FIRST_POKE_S
    while (left := active_children()) and time.monotonic() < began + _PATIENCE_S:
        if time.monotonic() >= poke:
            for process in left:
                if process.pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGINT)
            poke += _NEXT_POKE_S
        time.sleep(0.05)
    for process in active_children():
        process.terminate()


@contextmanager
def _deaf() -> Iterator[None]:
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread: signals are not ours to set
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin(workers: int, files: tuple[Path, ...]) -> None:
    import torch

    from recengine.hooks import host

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    for path in files:
        host().add_file(path)


def _hearing(fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return fn(*args, **kwargs)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
