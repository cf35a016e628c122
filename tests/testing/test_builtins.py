"""Every built-in model, loss, metric and data set goes through the conformance that outsiders get."""

from __future__ import annotations

from typing import Any

import pytest

from recengine.hooks import host
from recengine.testing.check import checks_for

KINDS = ("model", "loss", "metric", "dataset", "tuner", "recourse", "command")


def _checks() -> list[Any]:
    found = []
    for kind in KINDS:
        for entry in host().registries[kind]:
            checks = checks_for(entry)
            found += [
                pytest.param(checks, check, id=f"{kind}-{entry.name}-{check.removeprefix('test_')}")
                for check in dir(checks)
                if check.startswith("test_")
            ]
    return found


@pytest.mark.parametrize(("checks", "check"), _checks())
def test_conforms(checks: Any, check: str) -> None:
    getattr(checks(), check)()


def test_no_built_in_plugin_is_broken() -> None:
    assert host().broken == []
