"""From interactions to a checked split."""

from __future__ import annotations

from typing import cast

from recengine import data
from recengine.config import Config
from recengine.contracts.auditor import Finding
from recengine.data import Interactions, Split
from recengine.errors import LeakageError, UsageError


def split_config_class() -> type[Config]:
    """The settings class of the section 'split'."""
    return data.SplitConfig


def as_split(given: Interactions | Split, config: Config) -> Split:
    """A given split as it is; interactions split as ``config`` says."""
    if isinstance(given, Split):
        return given
    if not isinstance(given, Interactions):
        raise UsageError(
            "data must be interactions or a split",
            found=type(given).__name__,
            fix="read it with recengine.data.read, or from a table with recengine.data.read_table",
        )
    return data.split(given, cast(data.SplitConfig, config))


def audited(split: Split) -> list[Finding]:
    """What the leakage audit found; raises LeakageError when a finding has severity 'fail'."""
    findings: list[Finding] = data.audit(split)
    failed = [finding for finding in findings if finding.severity == "fail"]
    if failed:
        raise LeakageError(
            "held-out data can be seen in training",
            where="leakage audit",
            found="; ".join(f"{finding.check}: {finding.message}" for finding in failed),
            fix="mend the data or the split; recengine data audit shows the evidence",
        )
    return findings
