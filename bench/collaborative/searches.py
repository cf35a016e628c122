"""What is chosen on validation for a published row whose settings no publication gives.

A search goes by stages: every stage changes the best setting so far in a few ways, and the best of all that
was tried is what the row is run with. For shifted sets the validation part is drawn from the training part as
the test part was drawn from everything; else it is a tenth of every user's training items.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cells import Cell, Outcome, outcome

Change = dict[str, Any]  # fields of Cell; "loss": what changes in it


def _temperatures(*values: float) -> list[Change]:
    return [{"loss": {"temperature": value}} for value in values]


_WEIGHTS: list[Change] = [{"loss": {"negative_weight": weight}} for weight in (1.25, 1.5)]
_SLOWER: list[Change] = [{"spread": 0.3}, {"rate": 0.01}]
_UNSHARED: list[Change] = [{"loss": {"shared": False, "reject": False}}]  # the sampler rejects
_DECAYS: list[Change] = [{"decay": decay} for decay in (0.0, 1e-6, 1e-5)]
SEARCHES: dict[str, list[list[Change]]] = {
    "shift-electronic": [_temperatures(0.05, 0.075, 0.1, 0.15), _SLOWER, [{"epochs": 60}], _UNSHARED],
    "shift-cd": [_temperatures(0.05, 0.075, 0.1, 0.15), _SLOWER, [{"epochs": 60}]],
    "shift-gowalla": [_temperatures(0.05, 0.075, 0.1)],
    "electronic-dsl-w": [_WEIGHTS],
    # rate and temperature were searched before (line "gowalla-lightgcn, cosine")
    "gowalla-lightgcn": [[{"extra": {"norm_power": power}} for power in (0.2, 0.3, 0.4)]],
    "electronic-bpr": [
        _DECAYS,
        [{"rate": 1e-3}, {"rate": 1e-2}],
        [{"decay": 3e-5}, {"decay": 1e-4}],
        [{"epochs": 80}],
    ],
}
SHARES = {  # of a row's epochs that its trials run; others are tried at their own length
    "shift-electronic": 12 / 30,
    "shift-cd": 8 / 30,
    "shift-gowalla": 6 / 40,
    "electronic-dsl-w": 10 / 30,
    "gowalla-lightgcn": 6 / 40,
}


def trial(row: Cell, name: str) -> Cell:
    """``row`` as it is tried: shorter, on validation items alone."""
    shifted = row.data.endswith("-shift")
    source = f"{row.data}-validation" if shifted else row.data
    epochs = round(SHARES.get(row.name, 1.0) * row.epochs)
    return replace(row, name=name, data=source, final=shifted, epochs=epochs)


def changed(cell: Cell, change: Change) -> Cell:
    return replace(cell, **{**change, "loss": {**cell.loss, **change.get("loss", {})}})


def score(found: Outcome) -> float:
    """Validation NDCG@20, of a shifted set the mean over all users, as it is measured there."""
    if found.ndcg is not None:
        return found.over_all_users(found.ndcg)
    return found.validation or 0.0


def trials(row: Cell, store: Path) -> Iterator[Cell]:
    """One after the other: a stage's trials are known only when those before it have been run."""
    best = row
    for stage, changes in enumerate(SEARCHES[row.name]):
        yield from (one for one, _ in _stage(row, best, stage, changes))
        best = _best(row, store, stage + 1) or best


def settled(row: Cell, store: Path) -> Cell | None:
    """``row`` with what its search chose, None where the search is not complete."""
    return _best(row, store, len(SEARCHES.get(row.name, [])))


def _stage(row: Cell, best: Cell, stage: int, changes: list[Change]) -> list[tuple[Cell, Cell]]:
    """The trials of a stage, each with the row it stands for."""
    made = [changed(best, change) for change in changes]
    return [(trial(one, f"{row.name}-try-{stage}-{i}"), one) for i, one in enumerate(made)]


def _best(row: Cell, store: Path, stages: int) -> Cell | None:
    best, top = row, -1.0
    for stage, changes in enumerate(SEARCHES.get(row.name, [])[:stages]):
        seen = _stage(row, best, stage, changes)
        found = [outcome(tried, store) for tried, _ in seen]
        for one, (_, stands_for) in zip(found, seen, strict=True):
            if one is None:
                return None
            if score(one) > top:
                best, top = stands_for, score(one)
    return best


def words(cell: Cell) -> str:
    """What a search may change, in words."""
    quiet = ("name", "negatives", "warmup", "ramp")
    given = {**{k: v for k, v in cell.loss.items() if k not in quiet}, **cell.extra, "rate": cell.rate}
    given |= {"spread": cell.spread, "decay": cell.decay, "batch": cell.batch, "epochs": cell.epochs}
    return ", ".join(f"{k} {v}" for k, v in given.items())


SEARCHED = [
    "## Searches",
    "",
    "Every trial runs its whole (shorter) course. Shifted sets: a tenth of the training part, held back "
    "by drawing items uniformly, as the test part was, mean over all users; others: a tenth of every "
    "user's training items. The test part was not looked at. A stage changes the best so far.",
    "",
    "| row | settings: validation NDCG@20 |",
    "|---|---|",
]


def lines_of(rows: Iterable[Cell], store: Path) -> dict[str, str]:
    """A table's line for every search that is complete, by row."""
    lines = {}
    for row in rows:
        if row.name in SEARCHES and settled(row, store) is not None:
            made = [(cell, outcome(cell, store)) for cell in trials(row, store)]
            shown = [f"{words(cell)}: {score(found):.4f}" for cell, found in made if found is not None]
            lines[row.name] = f"| {row.name} | {'; '.join(shown)} |"
    return lines
