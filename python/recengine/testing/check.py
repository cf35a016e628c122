"""Running conformance checks without pytest: ``recengine plugins check NAME``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from unittest import SkipTest

from recengine.hooks import Entry, Host
from recengine.testing.base import Conformance
from recengine.testing.clicks import ClickDatasetConformance, ClickModelConformance
from recengine.testing.commands import CommandConformance
from recengine.testing.datasets import DatasetConformance
from recengine.testing.losses import LossConformance
from recengine.testing.metrics import MetricConformance
from recengine.testing.models import ModelConformance
from recengine.testing.recourse import RecourseConformance
from recengine.testing.tuners import TunerConformance


@dataclass(frozen=True)
class CheckResult:
    """One check of one registered thing ('model sasrec'), and why it failed or was skipped."""

    subject: str
    check: str
    outcome: Literal["passed", "failed", "skipped"]
    reason: str = ""


def conformance_of(kind: str) -> type[Conformance] | None:
    """The conformance class of a kind; None for kinds without one."""
    return {
        "model": ModelConformance,
        "model of clicks": ClickModelConformance,
        "dataset of clicks": ClickDatasetConformance,
        "loss": LossConformance,
        "metric": MetricConformance,
        "dataset": DatasetConformance,
        "tuner": TunerConformance,
        "recourse": RecourseConformance,
        "command": CommandConformance,
    }.get(kind)


def checks_for(entry: Entry) -> type[Conformance]:
    """The conformance class of what is registered, bound to its name."""
    clicks = entry.kind in ("model", "dataset") and entry.extras.get("task") == "clicks"
    base = conformance_of(f"{entry.kind} of clicks" if clicks else entry.kind) or Conformance
    return type(f"{base.__name__}_{entry.name}", (base,), {"kind": entry.kind, "name": entry.name})


def run_checks(checks: type[Conformance], matching: str = "") -> list[CheckResult]:
    """Run every ``test_`` method (those whose name holds ``matching``) on a fresh instance; nothing that a
    check raises gets out."""
    names = [name for name in dir(checks) if name.startswith("test_") and matching in name]
    return [_run(checks, name) for name in names]


def _run(checks: type[Conformance], name: str) -> CheckResult:
    subject, check = f"{checks.kind} {checks.name}", name.removeprefix("test_").replace("_", " ")
    try:
        getattr(checks(), name)()
    except SkipTest as skipped:
        return CheckResult(subject, check, "skipped", str(skipped))
    except AssertionError as failed:
        return CheckResult(subject, check, "failed", str(failed) or "the check does not hold")
    except Exception as error:  # what is checked may fail in any way
        return CheckResult(subject, check, "failed", f"{type(error).__name__}: {error}")
    return CheckResult(subject, check, "passed")


def check_plugin(host: Host, name: str) -> list[CheckResult]:
    """Run the conformance checks on everything that the plugin registered.

    ``host`` is the host of this process (``recengine.hooks.host()``), which the checks use.
    """
    entries = [entry for registry in host.registries.values() for entry in registry if entry.plugin == name]
    return [result for entry in entries for result in run_checks(checks_for(entry))]
