"""Errors and warnings of recengine. Each says where, what was found, what was expected and the fix.

``RecengineError.exit_code`` is what the command line exits with: 2 for what the user can mend (data,
configuration, arguments), 3 for a failed leakage audit, 4 for a broken plugin, 1 for anything else.
"""

from __future__ import annotations


class RecengineError(Exception):
    """Base of every error that recengine raises on purpose.

    Parameters
    ----------
    problem: what is wrong, one sentence.
    where: file, line, column, setting or argument.
    found / expected: the offending value and what would have been right.
    fix: what the user can do about it.
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        where: str | None = None,
        found: object | None = None,
        expected: object | None = None,
        fix: str | None = None,
    ) -> None:
        self.problem, self.where, self.found, self.expected, self.fix = problem, where, found, expected, fix
        super().__init__(self.render())

    def render(self) -> str:
        lines = [f"{self.where}: {self.problem}" if self.where else self.problem]
        for label, value in (("found", self.found), ("expected", self.expected), ("fix", self.fix)):
            if value is not None:
                lines.append(f"  {label}: {value}")
        return "\n".join(lines)


class DataError(RecengineError):
    """A file or table cannot be read as interactions, features or a split."""

    exit_code = 2


class ConfigError(RecengineError):
    """A setting is unknown, of the wrong type or out of range."""

    exit_code = 2


class UsageError(RecengineError):
    """Arguments that do not fit together, or a name that nothing answers to."""

    exit_code = 2


class LeakageError(RecengineError):
    """The leakage audit found that held-out data can be seen in training."""

    exit_code = 3


class PluginError(RecengineError):
    """A plugin broke its contract."""

    exit_code = 4


class CheckpointError(RecengineError):
    """A checkpoint is missing, damaged, or belongs to something else."""

    exit_code = 2


class PluginWarning(UserWarning):
    """A plugin was skipped; the engine goes on without it."""


class DataWarning(UserWarning):
    """Data that can be used, though hardly as it is meant."""
