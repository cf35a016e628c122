"""Studies in one SQLite file: what was asked, what was told, whatever happens in between.

Every change is one transaction, so a process killed at any moment leaves either all or nothing of it. A trial
that was asked and never told because its process is no more is lost: nothing is known of its point, and it is
asked for again.

Several processes of one machine may share a file: SQLite's own locking orders them. Workers on other machines
write nothing but reports, and need a shared file system for that. Where its locks do not work (many mounts of
NFS) two writers may damage the file: keep it on a local disk then, with objectives that do not report.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recengine.errors import DataError, UsageError
from recengine.tuning.space import Space
from recengine.tuning.transfer import first_difference

State = Literal["running", "done", "failed", "stopped", "lost", "withdrawn"]
_LAYOUT = 1
COPIED = "study '"  # how the origin of a trial of another study begins
CONFIRMATION = "confirmation"  # the origin of a trial that was spent on a recommendation
_SILENT_S = 24 * 3600.0
_DEATHS = 3  # at one point: then it is the point's fault
_DIED = "its worker died"
_RETRY_S = (0.5, 2.0)  # before an outcome is written once more
_CLOCKS_S = 2.0  # by which the system's times of a process and of the day may differ
_ANOTHER = "choose another name or file, or warm-start a new study from it"
_SCHEMA = """
CREATE TABLE study (
  name TEXT PRIMARY KEY, space TEXT NOT NULL, fingerprint TEXT NOT NULL, objectives TEXT NOT NULL,
  seed INTEGER NOT NULL, created REAL NOT NULL);
CREATE TABLE trial (
  study TEXT NOT NULL REFERENCES study(name), number INTEGER NOT NULL, state TEXT NOT NULL,
  parameters TEXT NOT NULL, trial_values TEXT, feasible INTEGER NOT NULL DEFAULT 1, seed INTEGER NOT NULL,
  note TEXT NOT NULL DEFAULT '', facts TEXT NOT NULL DEFAULT '{}', asked REAL NOT NULL, seen REAL NOT NULL,
  told REAL, PRIMARY KEY (study, number));
CREATE TABLE report (
  study TEXT NOT NULL, number INTEGER NOT NULL, step INTEGER NOT NULL, value REAL NOT NULL,
  PRIMARY KEY (study, number, step));
"""
_LATER = (  # what the files of earlier versions have not
    "CREATE TABLE IF NOT EXISTS about (study TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, "
    "PRIMARY KEY (study, name))",
    "CREATE TABLE IF NOT EXISTS setting (study TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, "
    "PRIMARY KEY (study, name))",
    "CREATE TABLE IF NOT EXISTS asker (study TEXT NOT NULL, number INTEGER NOT NULL, machine TEXT NOT NULL, "
    "process INTEGER NOT NULL, PRIMARY KEY (study, number))",
    f"UPDATE trial SET state = 'lost' WHERE state = 'failed' AND note = '{_DIED}'",
)


def _mending(refused: sqlite3.OperationalError) -> str:
    """What helps against what SQLite refused for."""
    code = refused.sqlite_errorcode & 0xFF  # the primary code
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "another program holds the file: let it end (or close what has it open) and repeat"
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return "free some disk space and repeat"
    return "see that the file and its folder can be written, on a disk with room, and repeat"


@dataclass(frozen=True)
class Trial:
    """One trial. values are None until it is done; facts is what the policy noted when it proposed it.

    state: "failed" is an outcome (it raised, or its value is not finite); "lost" is none (its worker died),
    nor is "withdrawn" (it failed as all trials did: the objective was at fault, not the point).
    """

    number: int
    state: State
    parameters: dict[str, Any]
    seed: int
    values: tuple[float, ...] | None = None
    feasible: bool = True
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    reports: tuple[tuple[int, float], ...] = ()

    @property
    def ended(self) -> bool:
        """Whether it has an outcome."""
        return self.state in ("done", "failed", "stopped")

    @property
    def copied(self) -> bool:
        """Whether another study measured it."""
        return str(self.facts.get("origin", "")).startswith(COPIED)

    @property
    def confirmation(self) -> bool:
        """Whether it was spent, after the search, on what was recommended."""
        return self.facts.get("origin") == CONFIRMATION


class StudyFile:
    """One file with one or more studies."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises DataError when the file is no study file, or cannot be written."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._transaction() as db:
                tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
                if not tables:
                    for statement in _SCHEMA.split(";\n"):
                        if statement.strip():
                            db.execute(statement)
                    db.execute(f"PRAGMA user_version = {_LAYOUT}")
                elif not {"study", "trial", "report"} <= tables:
                    raise DataError(
                        "this SQLite file holds no studies", where=str(path), found=sorted(tables)
                    )
                for statement in _LATER:
                    db.execute(statement)
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version > _LAYOUT:
                    raise DataError(
                        "the study file was written by a newer recengine", where=str(path), found=version
                    )
        except (sqlite3.DatabaseError, OSError) as broken:
            raise DataError("this is no usable study file", where=str(path), found=str(broken)) from broken

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            db = sqlite3.connect(self.path, timeout=60.0, isolation_level=None)
        except sqlite3.Error as refused:
            raise DataError(
                "the study file cannot be opened",
                where=str(self.path),
                found=str(refused),
                fix="see that it is a file, and that it and its folder can be written",
            ) from refused
        try:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # a full disk may have ended it already
                    db.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as refused:
            raise DataError(
                "the study file could not be written; nothing was lost but this change",
                where=str(self.path),
                found=str(refused),
                fix=_mending(refused),
            ) from refused
        finally:
            db.close()

    def create(
        self,
        name: str,
        space: Space,
        objectives: Sequence[str],
        seed: int,
        about: Mapping[str, str] | None = None,
        settings: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Create the study, or check that the one in the file asks the same question: space, objectives, and
        what else decides what a value means (``about``); and asks it the same way: of each part of
        ``settings`` that it knows, what is not at its default. Raises UsageError when it does not."""
        prints = space.fingerprint(), space.former_fingerprint
        with self._transaction() as db:
            row = db.execute(
                "SELECT fingerprint, objectives, space FROM study WHERE name = ?", (name,)
            ).fetchone()
            if row is None:
                kept = json.dumps(space.described())
                db.execute(
                    "INSERT INTO study VALUES (?, ?, ?, ?, ?, ?)",
                    (name, kept, prints[0], json.dumps(list(objectives)), seed, time.time()),
                )
            elif row[0] not in prints:
                found, expected = first_difference(
                    json.loads(row[2]), json.loads(json.dumps(space.described()))
                )
                raise UsageError(
                    f"the study '{name}' in this file has another search space",
                    where=str(self.path),
                    found=found,
                    expected=expected,
                    fix=_ANOTHER,
                )
            elif json.loads(row[1]) != list(objectives):
                raise UsageError(
                    f"the study '{name}' in this file measures something else",
                    where=str(self.path),
                    found=", ".join(json.loads(row[1])),
                    expected=", ".join(objectives),
                    fix=_ANOTHER,
                )
            known = dict(db.execute("SELECT name, value FROM about WHERE study = ?", (name,)).fetchall())
            for key, value in (about or {}).items():
                if known.get(key, value) != value:
                    raise UsageError(
                        f"the trials of the study '{name}' in this file measured something else",
                        where=str(self.path),
                        found=f"{key} = {known[key]}",
                        expected=f"{key} = {value}",
                        fix=_ANOTHER,
                    )
                db.execute("INSERT OR REPLACE INTO about VALUES (?, ?, ?)", (name, key, value))
            was = dict(db.execute("SELECT name, value FROM setting WHERE study = ?", (name,)).fetchall())
            for part, given in (settings or {}).items():
                if part in was:
                    self._check_same(name, part, json.loads(was[part]), given)
                else:
                    kept = json.dumps(dict(given))
                    db.execute("INSERT INTO setting VALUES (?, ?, ?)", (name, part, kept))

    def _check_same(self, name: str, part: str, was: Mapping[str, str], given: Mapping[str, str]) -> None:
        for key in [*given, *was]:
            if was.get(key) != given.get(key):
                raise UsageError(
                    f"the study '{name}' in this file was begun with another setting of its {part}",
                    where=str(self.path),
                    found=f"{key} = {was.get(key, 'its default')}",
                    expected=f"{key} = {given.get(key, 'its default')}",
                    fix=f"go on with {key} = {was.get(key, 'its default')}, or {_ANOTHER}",
                )

    def studies(self) -> list[str]:
        with self._transaction() as db:
            return [row[0] for row in db.execute("SELECT name FROM study ORDER BY created")]

    def about(self, study: str) -> dict[str, str]:
        """What else decides what a value of the study means, as it was told when the study was opened."""
        with self._transaction() as db:
            return dict(db.execute("SELECT name, value FROM about WHERE study = ?", (study,)).fetchall())

    def default(self, study: str) -> dict[str, Any]:
        """The point that the study began at. Raises UsageError when the file has no such study."""
        self.objectives(study)
        with self._transaction() as db:
            (space,) = db.execute("SELECT space FROM study WHERE name = ?", (study,)).fetchone()
        return {name: facts["default"] for name, facts in json.loads(space).items()}

    def objectives(self, study: str) -> tuple[str, ...]:
        """What a study measures. Raises UsageError when the file has no such study."""
        with self._transaction() as db:
            row = db.execute("SELECT objectives FROM study WHERE name = ?", (study,)).fetchone()
        if row is None:
            raise UsageError(
                f"there is no study '{study}' in this file",
                where=str(self.path),
                expected=", ".join(self.studies()) or "a file with studies",
            )
        return tuple(json.loads(row[0]))

    def begin(self, study: str, parameters: Mapping[str, Any], seed: int, facts: Mapping[str, Any]) -> int:
        """Record a trial as asked; returns its number."""
        now = time.time()
        with self._transaction() as db:
            query = "SELECT COALESCE(MAX(number) + 1, 0) FROM trial WHERE study = ?"
            number = int(db.execute(query, (study,)).fetchone()[0])
            db.execute(
                "INSERT INTO trial (study, number, state, parameters, seed, facts, asked, seen) "
                "VALUES (?, ?, 'running', ?, ?, ?, ?, ?)",
                (study, number, json.dumps(dict(parameters)), seed, json.dumps(dict(facts)), now, now),
            )
            asker = (study, number, platform.node(), os.getpid())
            db.execute("INSERT OR REPLACE INTO asker VALUES (?, ?, ?, ?)", asker)
        return number

    def add(self, study: str, trials: Sequence[Trial]) -> None:
        """Record trials that ended elsewhere, under numbers of this study."""
        now = time.time()
        with self._transaction() as db:
            query = "SELECT COALESCE(MAX(number) + 1, 0) FROM trial WHERE study = ?"
            first = int(db.execute(query, (study,)).fetchone()[0])
            for number, trial in enumerate(trials, start=first):
                db.execute(
                    "INSERT INTO trial (study, number, state, parameters, trial_values, feasible, seed, "
                    "note, facts, asked, seen, told) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        study, number, trial.state, json.dumps(trial.parameters),
                        None if trial.values is None else json.dumps(list(trial.values)),
                        int(trial.feasible), trial.seed, trial.note, json.dumps(trial.facts), now, now, now,
                    ),
                )  # fmt: skip

    def withdraw(self, study: str, number: int) -> None:
        """Forget a running trial, as if it had never been asked."""
        with self._transaction() as db:
            query = "DELETE FROM trial WHERE study = ? AND number = ? AND state = 'running'"
            if db.execute(query, (study, number)).rowcount:
                db.execute("DELETE FROM report WHERE study = ? AND number = ?", (study, number))

    def withdraw_failures(self, study: str) -> None:
        """Let the failed trials count for nothing; they stay in the file with their notes."""
        with self._transaction() as db:
            db.execute("UPDATE trial SET state = 'withdrawn' WHERE study = ? AND state = 'failed'", (study,))

    def finish(
        self,
        study: str,
        number: int,
        state: State,
        values: Sequence[float] | None,
        *,
        feasible: bool = True,
        note: str = "",
    ) -> None:
        """Record the outcome, also of a trial that was taken for lost. Raises UsageError for one that was
        never asked or has an outcome already, DataError with the outcome where it cannot be written."""
        if values is not None and not all(math.isfinite(value) for value in values):
            state, note, values = "failed", note or f"objective is not finite: {list(values)}", None
        for wait in (*_RETRY_S, None):
            try:
                self._finish(study, number, state, values, feasible, note)
                return
            except DataError as refused:
                if wait is None:
                    outcome = note if values is None else ", ".join(map(repr, values))
                    raise DataError(
                        refused.problem,
                        where=refused.where,
                        found=f"{refused.found}; trial {number} {state}: {outcome}",
                        fix=refused.fix,
                    ) from refused
                time.sleep(wait)

    def _finish(
        self,
        study: str,
        number: int,
        state: State,
        values: Sequence[float] | None,
        feasible: bool,
        note: str,
    ) -> None:
        with self._transaction() as db:
            row = db.execute(
                "SELECT state FROM trial WHERE study = ? AND number = ?", (study, number)
            ).fetchone()
            if row is None or row[0] not in ("running", "lost"):
                raise UsageError(
                    f"trial {number} cannot be told",
                    where=study,
                    found="it was never asked" if row is None else f"it is {row[0]}",
                )
            db.execute(
                "UPDATE trial SET state = ?, trial_values = ?, feasible = ?, note = ?, told = ? "
                "WHERE study = ? AND number = ?",
                (
                    state,
                    None if values is None else json.dumps(list(values)),
                    int(feasible),
                    note,
                    time.time(),
                    study,
                    number,
                ),
            )

    def report(self, study: str, number: int, step: int, value: float) -> None:
        """Record an intermediate value, if it is finite, and a sign of life."""
        with self._transaction() as db:
            if math.isfinite(value):
                db.execute("INSERT OR REPLACE INTO report VALUES (?, ?, ?, ?)", (study, number, step, value))
            db.execute(
                "UPDATE trial SET seen = ? WHERE study = ? AND number = ?", (time.time(), study, number)
            )

    def elsewhere(self, study: str) -> int:
        """How many trials of the search run that another process asked for."""
        with self._transaction() as db:
            query = (
                "SELECT facts FROM trial JOIN asker USING (study, number) "
                "WHERE study = ? AND state = 'running' AND NOT (machine = ? AND process = ?)"
            )
            rows = db.execute(query, (study, platform.node(), os.getpid())).fetchall()
        return sum(json.loads(facts).get("origin") != CONFIRMATION for (facts,) in rows)

    def lose(self, study: str, number: int) -> None:
        """Mark a running trial as lost; at the third death at one point, as failed."""
        with self._transaction() as db:
            _lose(db, study, number)

    def give_up(self, study: str, older_than_s: float = _SILENT_S) -> list[int]:
        """Mark running trials as lost whose process of this machine is no more, and those of other machines
        without a sign of life for that long; at the third death at one point, as failed. Returns their
        numbers."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT number, seen, asked, machine, process FROM trial "
                "LEFT JOIN asker USING (study, number) WHERE study = ? AND state = 'running'",
                (study,),
            ).fetchall()
            silent = time.time() - older_than_s
            numbers = [
                int(number)
                for number, seen, asked, machine, process in rows
                if (seen < silent if machine != platform.node() else not _lives(process, asked))
            ]
            for number in numbers:
                _lose(db, study, number)
        return numbers

    def trials(self, study: str) -> list[Trial]:
        """All trials by number."""
        with self._transaction() as db:
            reports: dict[int, list[tuple[int, float]]] = {}
            for number, step, value in db.execute(
                "SELECT number, step, value FROM report WHERE study = ? ORDER BY number, step", (study,)
            ):
                reports.setdefault(number, []).append((step, value))
            rows = db.execute(
                "SELECT number, state, parameters, seed, trial_values, feasible, note, facts FROM trial "
                "WHERE study = ? ORDER BY number",
                (study,),
            ).fetchall()
        return [
            Trial(
                number,
                state,
                json.loads(parameters),
                seed,
                None if values is None else tuple(json.loads(values)),
                bool(feasible),
                note,
                json.loads(facts),
                tuple(reports.get(number, ())),
            )
            for number, state, parameters, seed, values, feasible, note, facts in rows
        ]


def _lose(db: sqlite3.Connection, study: str, number: int) -> None:
    """Mark a running trial as lost, or as failed where its point has cost too many workers."""
    deaths = 1 + int(
        db.execute(
            "SELECT COUNT(*) FROM trial JOIN trial AS this USING (study, parameters) "
            "WHERE study = ? AND this.number = ? AND trial.state = 'lost'",
            (study, number),
        ).fetchone()[0]
    )
    state, note = "lost", _DIED
    if deaths >= _DEATHS:
        state, note = "failed", f"{_DIED}, {deaths} times at this point"
    db.execute(
        "UPDATE trial SET state = ?, note = ?, told = ? WHERE study = ? AND number = ? AND state = 'running'",
        (state, note, time.time(), study, number),
    )


def _lives(process: int, since: float) -> bool:
    """Whether the process that was there at the time ``since`` still is."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    began = _began(process)
    return began is None or began <= since + _CLOCKS_S  # a later one has got its number


def _began(process: int) -> float | None:
    """When a process began, in seconds since the epoch; None where the system does not tell (not Linux)."""
    try:
        ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
        system = Path("/proc/stat").read_text().splitlines()
        boot = next(line for line in system if line.startswith("btime ")).split()[1]
        return int(boot) + int(ticks) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return None
