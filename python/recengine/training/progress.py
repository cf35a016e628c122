"""What a running fit reports, for a progress bar or a log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Progress:
    """stage: what is going on. done of total: steps of the whole fit (or whatever ``note`` names).

    loss: mean of the epoch so far. metrics: the newest validation. rows_per_second: sequences, pairs or
    rows trained on, of the epoch so far.
    """

    stage: Literal["train", "validate", "fit"]
    done: int
    total: int
    epoch: int = 0
    epochs: int = 1
    loss: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    rows_per_second: float | None = None
    note: str = ""


Listener = Callable[[Progress], None]


def silent(event: Progress) -> None:
    """Reports nothing."""
