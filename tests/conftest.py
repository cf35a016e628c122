"""Fixtures of the whole suite."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# A shell without job control starts background jobs (cmd &) deaf to SIGINT, and children inherit that; the
# tests of Ctrl-C must be heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def data_root() -> Path:
    """Where the real data lies: $RECENGINE_DATA, or ../shared/data beside the checkout."""
    return Path(os.environ.get("RECENGINE_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """A path below the real data; the test skips, saying so, when it is absent."""

    def locate(relative: str) -> Path:
        path = data_root() / relative
        if not path.exists():
            pytest.skip(f"real data not here: {relative} (set RECENGINE_DATA)")
        return path

    return locate
