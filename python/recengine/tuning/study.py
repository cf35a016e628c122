"""A study: ask for a point, tell what it was worth. Tunes anything, a recommender or not.

    study = Study.open(Path("study.db"), "mine", space, tuner)
    while len(study.done()) < 50:
        trial = study.ask()
        study.tell(trial, measure(trial.parameters, trial.seed))

Larger values are better. The default point is always the first trial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from recengine.contracts.tuner import Observation, Tuner
from recengine.errors import RecengineError, UsageError
from recengine.tuning.space import Space
from recengine.tuning.stopping import HopelessError, Reporter, Watched, hopeless
from recengine.tuning.store import CONFIRMATION, COPIED, StudyFile, Trial
from recengine.tuning.transfer import translated
from recengine.tuning.values import kept, number, numbers, plain

_ATTEMPTS = 3  # to propose while other workers go on
_DEFAULT_ATTEMPTS = 2
Objective = Callable[[dict[str, Any], int], float | Sequence[float]]


@dataclass
class Study:
    """One study in one file, proposed for by one tuner."""

    file: StudyFile
    name: str
    space: Space
    tuner: Tuner
    seed: int = 0
    objectives: tuple[str, ...] = ("value",)
    default_repeats: int = 1

    @classmethod
    def open(
        cls,
        path: Path,
        name: str,
        space: Space,
        tuner: Tuner,
        *,
        seed: int = 0,
        objectives: Sequence[str] = ("value",),
        about: Mapping[str, str] | None = None,
        default_repeats: int = 1,
        settings: Mapping[str, Mapping[str, str]] | None = None,
    ) -> Study:
        """Create the study or go on with it.

        about: what else decides what a value means (data, settings that are not searched), kept with the
        study. default_repeats: times that the default is measured before anything else, each under a seed of
        its own; more than one of them tells a tuner the noise. settings: by part ('tuner bonsai'), what is
        not at its default there, by name. Raises UsageError when the file's study has another space, other
        objectives, or differs in one of these.
        """
        if default_repeats < 1:
            raise UsageError(
                "the default is measured at least once", where="default_repeats", found=default_repeats
            )
        file = StudyFile(path)
        own = {} if default_repeats == 1 else {"default_repeats": str(default_repeats)}
        file.create(name, space, objectives, seed, about, {"search": own, **(settings or {})})
        return cls(file, name, space, tuner, seed, tuple(objectives), default_repeats)

    # --- ask and tell ---------------------------------------------------------------------------

    def ask(self) -> Trial:
        """The next point: the default first, then what the tuner proposes given all that is known."""
        return self.ask_many(1)[0]

    def ask_many(self, n: int) -> list[Trial]:
        """n points to be tried side by side.

        Trials whose process is no more are marked as lost first. When another worker has asked or told
        meanwhile, the tuner is asked again with what is known now.
        """
        if n < 1:
            raise UsageError("a study is asked for points", where="ask_many", found=n, expected="at least 1")
        self.file.give_up(self.name)
        asked: list[Trial] = []
        while len(asked) < n and self._needs_default():
            asked.append(self._begin(self.space.default, {"origin": "default"}))
        if len(asked) == n:
            return asked
        for attempt in range(_ATTEMPTS):
            known = self.trials()
            pending = [trial.parameters for trial in known if trial.state == "running"]
            history = [observation(trial) for trial in known if trial.ended]
            points = self._propose(history, pending, n - len(asked))
            if attempt == _ATTEMPTS - 1 or _progress(self.file.trials(self.name)) == _progress(known):
                break
        for point in points:
            facts = kept(point.pop("__facts__", {"origin": "tuner"}), "proposal of the tuner")
            settled = self.space.settle(plain(point))
            self.space.check(settled, where="proposal of the tuner")
            asked.append(self._begin(settled, facts))
        return asked

    def _needs_default(self) -> bool:
        """The default was not measured often enough yet, and has not failed for good: its last worker died,
        or it failed the first time."""
        states = [
            trial.state
            for trial in self.trials()
            if self._same(trial.parameters, self.space.default)
            and not trial.copied
            and trial.state != "withdrawn"
        ]
        failures = sum(state in ("failed", "lost") for state in states)
        if len(states) - failures >= self.default_repeats:
            return False
        return failures < _DEFAULT_ATTEMPTS or states[-1] == "lost"

    def _propose(
        self, history: list[Observation], pending: list[dict[str, Any]], n: int
    ) -> list[dict[str, Any]]:
        proposals = self.tuner.propose(history, n, pending)
        if len(proposals) != n:
            raise UsageError(f"the tuner proposed {len(proposals)} points where {n} were asked for")
        return [dict(point) for point in proposals]

    def _begin(self, point: dict[str, Any], facts: dict[str, Any]) -> Trial:
        known = sum(
            trial.state not in ("lost", "withdrawn") and self._same(trial.parameters, point)
            for trial in self.trials()
        )
        # a repeat of the same point gets another seed, so that repeats measure the noise
        seed = int(np.random.SeedSequence([self.seed, known]).generate_state(1)[0] % 2**31)
        number = self.file.begin(self.name, point, seed, facts)
        return Trial(number, "running", dict(point), seed, facts=facts)

    def confirm(self, point: Mapping[str, Any]) -> Trial:
        """A trial of ``point`` after the search, to tell as any other; ``run`` does not count it."""
        self.space.check(point, where="confirmation")
        return self._begin(dict(point), {"origin": CONFIRMATION})

    def tell(self, trial: Trial, value: float | Sequence[float], *, feasible: bool = True) -> None:
        """Record what a trial was worth. A value that is not finite counts as a failed trial. Raises
        UsageError for what is no number, or not one an objective."""
        self.file.finish(self.name, trial.number, "done", self._values(value), feasible=feasible)

    def _values(self, value: float | Sequence[float]) -> list[float]:
        values = numbers(value, "value of a trial")
        if len(values) != len(self.objectives):
            raise UsageError(
                f"the study has {len(self.objectives)} objectives",
                where="value of a trial",
                found=f"{len(values)} values",
            )
        return values

    def fail(self, trial: Trial, reason: str) -> None:
        """Record that a trial gave no value."""
        self.file.finish(self.name, trial.number, "failed", None, note=reason)

    def report(self, trial: Trial, step: int, value: float) -> bool:
        """Record an intermediate value; True when the trial is hopeless and should stop (median rule:
        recengine.tuning.stopping). One that is not finite is no report."""
        self.file.report(self.name, trial.number, step, number(value, "report"))
        return hopeless(self.trials(), trial.number, step)

    def stop(self, trial: Trial, value: float) -> None:
        """Record a trial that was stopped early, with the value it had reached."""
        self.file.finish(self.name, trial.number, "stopped", [number(value, "stop")])

    # --- reading --------------------------------------------------------------------------------

    def trials(self) -> list[Trial]:
        """All trials by number, with the space's own choices for what the file could keep of them."""
        return [
            replace(trial, parameters=self.space.restored(trial.parameters))
            for trial in self.file.trials(self.name)
        ]

    def ended(self) -> list[Trial]:
        """Trials of this study that have an outcome."""
        return [trial for trial in self.trials() if trial.ended and not trial.copied]

    def searched(self) -> list[Trial]:
        """Those of the search: what ``run`` counts."""
        return [trial for trial in self.ended() if not trial.confirmation]

    def confirmations(self) -> list[Trial]:
        """Trials with an outcome that were spent on a recommendation after the last one of the search."""
        ended = self.ended()
        last = max((trial.number for trial in ended if not trial.confirmation), default=-1)
        return [trial for trial in ended if trial.confirmation and trial.number > last]

    def under_way(self, point: Mapping[str, Any]) -> bool:
        """Whether some process measures ``point`` just now."""
        self.file.give_up(self.name)
        return any(t.state == "running" and self._same(t.parameters, point) for t in self.trials())

    def history(self) -> list[Observation]:
        """What the tuner is told: the trials that have an outcome, copied ones among them."""
        return [observation(trial) for trial in self.trials() if trial.ended]

    def done(self) -> list[Trial]:
        """Trials of this study that gave values, feasible or not."""
        return [trial for trial in self.ended() if trial.state == "done"]

    def best(self) -> Trial:
        """The feasible trial with the largest first value. Raises UsageError when there is none."""
        candidates = [trial for trial in self.done() if trial.feasible and trial.values is not None]
        if not candidates:
            states = [trial.state for trial in self.trials()]
            raise UsageError(
                "no trial has succeeded yet",
                where=f"study '{self.name}'",
                found=f"{len(states)} trials, {states.count('failed') + states.count('withdrawn')} failed",
                fix="look at the notes of the failed trials" if states else "run some",
            )
        return max(candidates, key=lambda trial: (trial.values or (0.0,))[0])

    def warm_start(self, file: StudyFile, name: str) -> int:
        """Copy the trials of another study that measured a point of this space, once; returns how many.

        The tuner is told of them; they count neither as trials of this study nor for its ``best``. A setting
        that only the other study searches must have been at what this one fixes it to (``about``; where that
        does not say: at the other's default). Raises UsageError when there is no such study, it is this one,
        the two search nothing in common, or it measured something else: other objectives, or another entry of
        ``about`` (model, data, settings that are not searched).
        """
        where = f"{file.path}, study '{name}'"
        if name == self.name and file.path.samefile(self.file.path):
            raise UsageError("a study cannot warm-start from itself", where=where, fix="name another study")
        if file.objectives(name) != self.objectives:
            raise UsageError(
                "the other study measured something else",
                where=where,
                found=", ".join(file.objectives(name)),
                expected=", ".join(self.objectives),
            )
        theirs, ours, default = file.about(name), self.file.about(self.name), file.default(name)
        differ = sorted(key for key in theirs.keys() & ours.keys() if theirs[key] != ours[key])
        if differ:
            raise UsageError(
                "the trials of the other study measured something else",
                where=where,
                found=", ".join(f"{key} = {theirs[key]}" for key in differ),
                expected=", ".join(f"{key} = {ours[key]}" for key in differ),
                fix="begin without it",
            )
        if not set(default) & set(self.space.names):
            raise UsageError(
                "the two studies search nothing in common",
                where=where,
                found=", ".join(default),
                expected=", ".join(self.space.names),
            )
        origin = f"{COPIED}{name}' of {file.path.resolve()}"
        known = {t.facts.get("number") for t in self.trials() if t.facts.get("origin") == origin}
        found = [
            replace(trial, parameters=point, facts={"origin": origin, "number": trial.number})
            for trial in file.trials(name)
            if trial.state == "done" and trial.number not in known
            and (point := translated(
                self.space.restored(trial.parameters), default, theirs, self.space, ours
            )) is not None
        ]  # fmt: skip
        self.file.add(self.name, found)
        return len(found)

    def _same(self, first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
        return all(first.get(name) == second.get(name) for name in self.space.names)

    # --- running --------------------------------------------------------------------------------

    def run(
        self,
        objective: Objective | Watched,
        trials: int,
        *,
        executor: Executor | None = None,
        workers: int = 1,
        finished: Callable[[Trial], None] | None = None,
    ) -> None:
        """Ask, measure and tell until ``trials`` are done, stopped or failed, or under way in other
        processes; goes on where an earlier run ended.

        objective: value(s) of (point, seed). One that is Watched reports while it runs, and its hopeless
        trials are stopped. executor: any concurrent.futures executor (the objective is sent to it); without
        one, several ``workers`` are processes of their own, and one means that trials run here, one after
        another. finished: called with each trial that ended.

        A trial that raises is recorded as failed and the study goes on; when the first five all fail, it
        stops (UsageError), and these count for nothing when it goes on: the default is measured first.
        Ctrl-C forgets the trials that are running, so that they are asked again. The death of a worker
        process ends the run (RecengineError) and loses what was running, nothing else.
        """
        if executor is None and workers > 1:
            # torch's threads do not survive a fork
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                self.run(objective, trials, executor=pool, workers=workers, finished=finished)
            return
        if executor is None:
            while self._left(trials) > 0:
                self.measure(self.ask(), objective, finished=finished)
            return
        under_way: set[int] = set()
        with self._kept(under_way):
            self._side_by_side(objective, trials, executor, workers, finished, under_way)

    def measure(
        self,
        trial: Trial,
        objective: Objective | Watched,
        *,
        executor: Executor | None = None,
        finished: Callable[[Trial], None] | None = None,
    ) -> None:
        """Measure one trial that was asked, here or by ``executor``, and tell it, as ``run`` does."""
        measured = partial(_measured, objective, self._reporter(trial), dict(trial.parameters), trial.seed)
        if executor is None:
            self._settle(trial, measured, finished)
            return
        with self._kept({trial.number}):
            self._settle(trial, executor.submit(measured).result, finished)

    @contextmanager
    def _kept(self, under_way: set[int]) -> Iterator[None]:
        """What happens to trials that are under way where an executor's run ends before them."""
        try:
            yield
        except (KeyboardInterrupt, UsageError):  # nobody waits for what is running
            for number in under_way:
                self.file.withdraw(self.name, number)
            raise
        except BrokenExecutor as broken:  # it ends all of its processes, whichever died
            for number in under_way:
                self.file.lose(self.name, number)
            raise RecengineError(
                "a worker process died",
                where=f"study '{self.name}' in {self.file.path}",
                found="lost with it: trials " + ", ".join(map(str, sorted(under_way))),
                fix="run the same again, it goes on from here; with fewer workers where memory ran out",
            ) from broken

    def _side_by_side(
        self,
        objective: Objective | Watched,
        trials: int,
        executor: Executor,
        workers: int,
        finished: Callable[[Trial], None] | None,
        under_way: set[int],
    ) -> None:
        """under_way: kept up to date with the numbers of the trials that were asked and not told."""
        running: dict[Future[Any], Trial] = {}
        while (left := self._left(trials)) > 0 or running:
            room = min(workers, left) - len(running)
            if room > 0:
                asked = self.ask_many(room)
                under_way.update(trial.number for trial in asked)
                for trial in asked:
                    point = dict(trial.parameters)
                    running[
                        executor.submit(_measured, objective, self._reporter(trial), point, trial.seed)
                    ] = trial
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            # what gave a value is told before a broken pool ends the run
            for future in sorted(ready, key=lambda future: future.exception() is not None):
                trial = running.pop(future)
                self._settle(trial, future.result, finished)
                under_way.remove(trial.number)

    def _left(self, trials: int) -> int:
        """How many of ``trials`` have not ended and are not under way in another process."""
        self.file.give_up(self.name)
        return trials - len(self.searched()) - self.file.elsewhere(self.name)

    def _reporter(self, trial: Trial) -> Reporter:
        return Reporter(self.file.path, self.name, trial.number)

    def _settle(
        self,
        trial: Trial,
        outcome: Callable[[], float | Sequence[float]],
        finished: Callable[[Trial], None] | None,
    ) -> None:
        """Record how a trial ended."""
        try:
            self._record(trial, outcome)
        except KeyboardInterrupt:
            self.file.withdraw(self.name, trial.number)
            raise
        self._check_hope()
        if finished is not None:
            finished(trial)

    def _record(self, trial: Trial, outcome: Callable[[], float | Sequence[float]]) -> None:
        try:
            values = self._values(outcome())
        except HopelessError as ended:
            self.stop(trial, ended.value)
        except BrokenExecutor:  # says nothing of this trial
            raise
        except UsageError as error:  # not this trial's fault: no trial can succeed
            self.fail(trial, error.problem)
            raise
        except Exception as error:  # a trial may fail in any way
            self.fail(trial, f"{type(error).__name__}: {error}")
        else:  # an error of writing it is no failure of the trial
            self.tell(trial, values)

    def _check_hope(self) -> None:
        known = self.ended()
        if len(known) >= 5 and all(trial.state == "failed" for trial in known):
            # they speak of the objective, not of their points
            self.file.withdraw_failures(self.name)
            raise UsageError(
                "all trials failed",
                where=f"study '{self.name}'",
                found=known[-1].note,
                fix="mend the objective first",
            )


def _progress(trials: Sequence[Trial]) -> list[tuple[int, str]]:
    return [(trial.number, trial.state) for trial in trials]


def _measured(
    objective: Objective | Watched, report: Reporter, point: dict[str, Any], seed: int
) -> float | Sequence[float]:
    return (
        objective.watched(point, seed, report) if isinstance(objective, Watched) else objective(point, seed)
    )


def observation(trial: Trial) -> Observation:
    """What a tuner is told of a finished trial: failed ones are infeasible and carry no value."""
    if trial.values is None:
        return Observation(trial.parameters, (), feasible=False, seed=trial.seed, copied=trial.copied)
    return Observation(trial.parameters, trial.values, trial.feasible, trial.seed, trial.copied)
