"""What an auditor is: it looks at data, a split or a model and says what it found, never silently."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Finding:
    """One thing found. severity 'fail' stops a fit; 'warn' is reported; 'info' is kept with the run."""

    check: str
    severity: Literal["info", "warn", "fail"]
    message: str
    evidence: dict[str, Any] = field(default_factory=dict)


class Auditor(Protocol):
    name: str

    def audit(self, subject: Any) -> list[Finding]: ...
