"""A system: what was run several times, with its per-user rows as tables users x seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from recengine.errors import DataError, UsageError
from recengine.evaluation.click_result import ClickEvaluation, ClickProtocol
from recengine.evaluation.protocol import Protocol
from recengine.evaluation.result import Evaluation

GROUPS = ("n_history", "n_targets", "target_decile", "n_cold")


@dataclass(frozen=True)
class System:
    """users: original ids in order. scores: metric -> float64 [users, seeds]. seeds in the columns' order.
    deterministic: its seed changes nothing, so that one run stands for all. groups: by name, a number a user
    (events in the history, popularity decile of the target) that results are sliced by."""

    name: str
    users: tuple[object, ...]
    seeds: tuple[int, ...]
    scores: Mapping[str, NDArray[np.float64]]
    protocol: Protocol | ClickProtocol
    deterministic: bool = False
    groups: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, runs: Mapping[int, Evaluation], *, deterministic: bool = False) -> System:
        """From one evaluation a seed. Raises DataError when the runs saw different users or protocols, or a
        user has two rows."""
        if not runs:
            raise UsageError("a system needs at least one run", where=name)
        seeds = tuple(sorted(runs))
        first = runs[seeds[0]]
        users = tuple(first.per_user["user"].to_list())
        if len(set(users)) != len(users):
            raise DataError(
                "a user has two rows in one evaluation",
                where=f"{name}, seed {seeds[0]}",
                found=f"{len(users)} rows of {len(set(users))} users",
                fix="evaluate the run again",
            )
        for seed in seeds[1:]:
            differing = first.protocol.difference(runs[seed].protocol)
            if differing:
                raise different_protocols(f"{name}, seeds {seeds[0]} and {seed}", differing)
            other = runs[seed].per_user["user"].to_list()
            if tuple(other) != users:
                raise DataError(
                    "two runs of one system were scored on different users",
                    where=f"{name}, seeds {seeds[0]} and {seed}",
                    found=f"{len(set(users) ^ set(other))} users are in one of them only",
                    fix="evaluate both again",
                )
        metrics = [metric for metric in first.metrics if all(metric in runs[seed].metrics for seed in seeds)]
        scores = {
            metric: np.stack([runs[seed].values(metric) for seed in seeds], axis=1) for metric in metrics
        }
        groups = {
            name: first.per_user[name].to_numpy().astype(np.int64)
            for name in GROUPS
            if name in first.per_user.columns
        }
        return cls(name, users, seeds, scores, first.protocol, deterministic, groups)

    @classmethod
    def of_clicks(cls, name: str, runs: Mapping[int, ClickEvaluation]) -> System:
        """From one evaluation of a click model a seed: the units are rows, the metrics ``auc`` and
        ``log_likelihood``. Raises DataError when the runs were asked differently."""
        if not runs:
            raise UsageError("a system needs at least one run", where=name)
        seeds = tuple(sorted(runs))
        first = runs[seeds[0]].protocol
        for seed in seeds[1:]:
            differing = first.difference(runs[seed].protocol)
            if differing:
                raise different_protocols(f"{name}, seeds {seeds[0]} and {seed}", differing)
        parts = [runs[seed].parts() for seed in seeds]
        scores = {metric: np.stack([one[metric] for one in parts], axis=1) for metric in parts[0]}
        return cls(name, tuple(range(len(next(iter(scores.values()))))), seeds, scores, first)

    def on(self, users: Sequence[object]) -> System:
        """The same system on some of its users, in the order given."""
        at = {user: row for row, user in enumerate(self.users)}
        rows = np.array([at[user] for user in users])
        scores = {metric: table[rows] for metric, table in self.scores.items()}
        groups = {name: numbers[rows] for name, numbers in self.groups.items()}
        return replace(self, users=tuple(users), scores=scores, groups=groups)

    def first(self, seeds: int) -> System:
        """The same system with its first ``seeds`` runs only."""
        scores = {metric: table[:, :seeds] for metric, table in self.scores.items()}
        return replace(self, seeds=self.seeds[:seeds], scores=scores)


def different_protocols(where: str, fields: Sequence[str]) -> UsageError:
    """The refusal to compare, naming what differs."""
    return UsageError(
        "these runs were measured by different protocols; their figures do not compare",
        where=where,
        found="they differ in " + ", ".join(fields),
        fix="evaluate them again under one protocol",
    )
