"""A fitted model with everything that belongs to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from recengine.contracts.auditor import Finding
from recengine.contracts.model import DataFacts
from recengine.data import Split
from recengine.errors import UsageError
from recengine.files import write_bytes, write_json, write_toml
from recengine.hooks import Host, emit
from recengine.training import checkpoint
from recengine.training.config import RunConfig
from recengine.training.record import environment, fingerprint
from recengine.training.store import save_split

SUFFIXES = {"test": "", "validation": "_validation"}

if TYPE_CHECKING:
    import polars as pl

    from recengine.evaluation import Evaluation


@dataclass
class Run:
    """name: registered name of the model. model: fitted. config: all settings. split: what it learned from
    and is asked about. history: one record an epoch. record: what run.json holds beside the settings.
    evaluations: by task, as ``evaluate`` was called. directory: where it is saved, or None."""

    name: str
    model: torch.nn.Module
    config: RunConfig
    split: Split
    facts: DataFacts
    seed: int = 0
    directory: Path | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    evaluations: MutableMapping[str, Evaluation] = field(default_factory=dict)
    host: Host | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        place = "not saved" if self.directory is None else f"in {self.directory}"
        return f"{type(self).__name__}({self.name!r}, seed {self.seed}, {place})"

    def evaluate(self, task: str = "test", *, candidates: str = "full", **options: Any) -> Evaluation:
        """Measure on the 'test' or 'validation' task with the metrics of the settings (``options`` go to
        recengine.evaluation.evaluate and win); kept in ``evaluations``, and in the directory if there is one.

        candidates: 'uniform-N' or 'popularity-N' ranks the targets among N sampled items (Protocol); such
        figures are no substitute for the full ranking's and are not kept.
        Raises UsageError when the split has no such task, or for another set of candidates.
        """
        from recengine.evaluation import Protocol, evaluate

        asked = {"test": self.split.test, "validation": self.split.validation}.get(task)
        if asked is None:
            raise UsageError("the split has no such task", found=task, expected="test or validation")
        chosen = self.config.evaluation
        given = {
            "protocol": Protocol(candidates, split=self.split.description),
            "metrics": chosen.metrics or None,
            "cutoffs": chosen.cutoffs,
            "memory": chosen.memory,
        }
        result = evaluate(self.model, asked, **{**given, **options})
        if result.protocol.candidates == "full":
            self._keep(task, result)
        return result

    def recommend(
        self, users: Sequence[Any] | Mapping[Any, Sequence[Any]], k: int = 10, *, strict: bool = False
    ) -> pl.DataFrame:
        """The k best items for each user: see recengine.training.recommend."""
        from recengine.training.recommending import recommend

        return recommend(self, users, k, strict=strict)

    def save(self, path: str | Path) -> Path:
        """Write the run to a folder (run.json last, so a folder with run.json is whole).

        Raises CheckpointError, before anything is written, when the run was loaded and an evaluation beside
        it is damaged.
        """
        folder, evaluations = Path(path), dict(self.evaluations)
        folder.mkdir(parents=True, exist_ok=True)
        digest = checkpoint.save_tensors(folder / "model.safetensors", self.model.state_dict())
        write_toml(folder / "config.toml", {"name": self.name, **self.config.model_dump(mode="json")})
        save_split(folder / "split", self.split)
        lines = "".join(json.dumps(entry) + "\n" for entry in self.history)
        write_bytes(folder / "history.jsonl", lines.encode())
        for task, result in evaluations.items():
            result.write(folder, suffix=SUFFIXES[task])
        write_json(folder / "run.json", self.describe(digest))
        self.directory = folder
        return folder

    def describe(self, digest: str | None = None) -> dict[str, Any]:
        """What run.json holds."""
        return {
            "format": checkpoint.FORMAT,
            "model": self.name,
            "seed": self.seed,
            "facts": {
                "n_users": self.facts.n_users,
                "n_items": self.facts.n_items,
                "extras": self.facts.extras,
            },
            "config": self.config.model_dump(mode="json"),
            "split": self.split.description,
            "data": fingerprint(self.split),
            "weights": digest,
            "findings": [vars(finding) for finding in self.findings],
            "protocols": {task: result.protocol.hash for task, result in self.evaluations.items()},
            "environment": self.record or environment(),
        }

    def _keep(self, task: str, result: Any) -> None:
        """Remember what was measured, write it beside the run, and tell the plugins."""
        self.evaluations[task] = result
        if self.directory is not None:
            result.write(self.directory, suffix=SUFFIXES[task])
            self._note_protocol(self.directory / "run.json", task, result.protocol.hash)
        if self.host is not None:
            emit(self.host, "recengine_evaluation_end", run=self, evaluation=result)

    @staticmethod
    def _note_protocol(path: Path, task: str, protocol: str) -> None:
        if path.is_file():
            about = checkpoint.load_json(path)
            write_json(path, {**about, "protocols": {**about.get("protocols", {}), task: protocol}})
