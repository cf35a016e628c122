"""Small data that a sequence model can learn."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from recengine.data import Interactions

sys.path.insert(0, str(Path(__file__).parent))

from walking import walks


@pytest.fixture(scope="session")
def ring() -> Interactions:
    return walks()
