"""What an audit says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["info", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing found. severity 'fail' stops a fit; 'warn' is reported; 'info' is kept with the run."""

    check: str
    severity: Severity
    message: str
    evidence: dict[str, Any] = field(default_factory=dict)
