"""ElliCE through the checks that any recourse method passes."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from recengine.testing import RecourseConformance

pytest.importorskip("clarabel")


class TestEllipsoid(RecourseConformance):
    name = "ellice"


class TestExact(RecourseConformance):
    name = "ellice"
    settings: ClassVar[dict[str, Any]] = {"guarantee": "exact"}


class TestFewestChanges(RecourseConformance):
    name = "ellice"
    settings: ClassVar[dict[str, Any]] = {"cost": "changes"}
