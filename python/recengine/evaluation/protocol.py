"""The protocol: everything that decides what an evaluation's numbers mean, as one object with a hash."""

from __future__ import annotations

import hashlib
import json
import re
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from recengine.data import EvalTask
from recengine.errors import UsageError

TIES = "smaller item row first"
_CANDIDATES = re.compile(r"full|(uniform|popularity)-[1-9][0-9]*")


@dataclass(frozen=True)
class Protocol:
    """How a model was asked.

    candidates: 'full', or 'uniform-n' / 'popularity-n': the targets among n sampled unseen items a user
        (labelled as such everywhere; figures of different candidate sets do not compare).
    mask_history: whether what a user already met is left out.
    seed: of the sampled candidates.
    The rest is filled in by ``evaluate``. task: name of the question set. split: the split's description,
    where a split was given. cutoffs, metrics: what was measured (name to one-line definition).
    ties: the order of equal scores. popularity: what novelty, tails and the like count.
    data: sha256 of the history, the users asked and their targets.
    """

    candidates: str = "full"
    mask_history: bool = True
    seed: int = 0
    task: str = ""
    split: Mapping[str, Any] = field(default_factory=dict)
    cutoffs: tuple[int, ...] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)
    ties: str = TIES
    popularity: str = "events of the history that may be seen"
    data: str = ""

    def __post_init__(self) -> None:
        if not _CANDIDATES.fullmatch(self.candidates):
            raise UsageError(
                "not a candidate set",
                where="protocol.candidates",
                found=repr(self.candidates),
                expected="'full', 'uniform-N' or 'popularity-N'",
            )

    @property
    def sampled(self) -> tuple[str, int] | None:
        """('uniform' or 'popularity', n), or None for full ranking."""
        kind, _, n = self.candidates.partition("-")
        return (kind, int(n)) if n else None

    def describe(self) -> dict[str, Any]:
        """The fields as plain JSON values. A seed that decides nothing is left out."""
        told = json.loads(json.dumps(asdict(self), default=_plain))
        if self.sampled is None:
            del told["seed"]
        return dict(told)

    def canonical(self) -> str:
        """JSON with sorted keys and no spaces: what the hash is taken of."""
        return json.dumps(self.describe(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    @property
    def hash(self) -> str:
        """First 12 hex digits of the sha256 of the canonical JSON."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:12]

    def difference(self, other: Protocol) -> list[str]:
        """Names of the fields in which two protocols differ."""
        mine, theirs = self.describe(), other.describe()
        return [f.name for f in fields(self) if mine.get(f.name) != theirs.get(f.name)]

    def __str__(self) -> str:
        sampled = self.sampled
        shown = "full ranking" if sampled is None else f"SAMPLED candidates ({self.candidates})"
        mask = "history left out" if self.mask_history else "history NOT left out"
        task = f"{self.task}, " if self.task else ""
        return f"{task}{shown}, {mask}, ties: {self.ties} [{self.hash}]"

    @classmethod
    def from_description(cls, told: Mapping[str, Any]) -> Protocol:
        """The protocol that ``describe`` told."""
        known = {f.name for f in fields(cls)}
        given = {name: value for name, value in told.items() if name in known}
        return cls(**{**given, "cutoffs": tuple(given.get("cutoffs", ()))})


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


_known: dict[int, str] = {}


def task_fingerprint(task: EvalTask) -> str:
    """sha256 (hex) of the history, the users asked and their targets; remembered while the task lives."""
    if id(task) in _known:
        return _known[id(task)]
    digest = hashlib.sha256(task.history.fingerprint().encode())
    for column in (task.users, task.indptr, task.targets):
        digest.update(np.ascontiguousarray(column, np.int64).data)
    _known[id(task)] = digest.hexdigest()
    weakref.finalize(task, _known.pop, id(task), None)
    return _known[id(task)]
