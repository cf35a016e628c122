"""What an auditor is: it looks at data, a split or a model and says what it found, never silently."""

from __future__ import annotations

from typing import Any, Protocol

from recengine.data.findings import Finding

__all__ = ["Auditor", "Finding"]


class Auditor(Protocol):
    name: str

    def audit(self, subject: Any) -> list[Finding]: ...
