"""What a reader did: the layout, the columns, every guess."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ReadReport:
    """Filled in while reading. layout: name of the reader; columns: role to column; said: one sentence a
    guess or decision; rows: of the file; kept: after filters."""

    path: str = ""
    layout: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    rows: int = 0
    kept: int = 0

    def say(self, sentence: str) -> None:
        """Add a sentence."""
        self.said.append(sentence)
