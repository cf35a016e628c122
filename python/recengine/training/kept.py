"""What was measured of a run and lies beside it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

from recengine.errors import CheckpointError, DataError
from recengine.evaluation import Evaluation
from recengine.evaluation.click_result import ClickEvaluation
from recengine.training.config import CLICKS
from recengine.training.run import SUFFIXES


class KeptEvaluations(MutableMapping[str, Any]):
    """Evaluations by task, each read when it is first asked for: a run with a damaged one still loads,
    recommends and can be measured again.

    folder: of the run. task: what its run.json says that it does. Asking for an evaluation raises KeyError
    where none was kept, CheckpointError where a file of it is missing or damaged.
    """

    def __init__(self, folder: Path, task: str) -> None:
        self._folder = folder
        self._kind: type[Evaluation] | type[ClickEvaluation] = (
            ClickEvaluation if task == CLICKS else Evaluation
        )
        self._held: dict[str, Any] = {
            name: None for name, suffix in SUFFIXES.items() if (folder / f"evaluation{suffix}.json").is_file()
        }

    def __getitem__(self, name: str) -> Any:
        if self._held[name] is None:
            self._held[name] = self._read(name)
        return self._held[name]

    def __setitem__(self, name: str, evaluation: Any) -> None:
        self._held[name] = evaluation

    def __delitem__(self, name: str) -> None:
        del self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._held) or 'none'})"

    def _read(self, name: str) -> Evaluation | ClickEvaluation:
        try:
            return self._kind.read(self._folder, suffix=SUFFIXES[name])
        except DataError as broken:
            raise CheckpointError(
                f"what was measured on the {name} task cannot be read",
                where=broken.where,
                found=broken.found,
                expected=broken.expected,
                fix=f"measure it again: recengine evaluate {shlex.quote(str(self._folder))} --task {name}, "
                f"or in Python run.evaluate('{name}')",
            ) from broken
