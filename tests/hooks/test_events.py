"""Life-cycle events: a plugin that raises is named, the others are still told."""

from __future__ import annotations

from typing import Any

import pytest

from recengine.errors import PluginWarning
from recengine.hooks import Host, ask, emit, hookimpl


class Listener:
    def __init__(self) -> None:
        self.told: list[int] = []

    @hookimpl
    def recengine_epoch_end(self, epoch: int) -> None:
        self.told.append(epoch)


class Raiser:
    error: BaseException = ValueError("bad day")

    @hookimpl
    def recengine_epoch_end(self) -> None:
        raise self.error

    @hookimpl
    def recengine_choose_device(self) -> str:
        raise self.error


class Chooser:
    def __init__(self, answer: str | None) -> None:
        self.answer, self.asked = answer, 0

    @hookimpl
    def recengine_choose_device(self, config: Any) -> str | None:
        self.asked += 1
        return self.answer


def _epoch(plugins: Host, epoch: int) -> None:
    emit(plugins, "recengine_epoch_end", run=None, epoch=epoch, metrics={})


def _epochs(plugins: Host, n: int) -> None:
    for epoch in range(n):
        _epoch(plugins, epoch)


def test_every_listener_is_told() -> None:
    plugins, first, second = Host(), Listener(), Listener()
    plugins.add(first, "first")
    plugins.add(second, "second")
    _epoch(plugins, 3)
    assert first.told == second.told == [3]


def test_one_that_raises_is_named_once_and_stops_nobody() -> None:
    plugins, before, after = Host(), Listener(), Listener()
    for name, plugin in [("before", before), ("raiser", Raiser()), ("after", after)]:
        plugins.add(plugin, name)
    with pytest.warns(
        PluginWarning, match="'raiser' raised in recengine_epoch_end .*ValueError: bad day"
    ) as warned:
        _epochs(plugins, 2)
    assert len(warned) == 1
    assert before.told == after.told == [0, 1]
    assert [(failure.plugin, failure.hook) for failure in plugins.failures] == [
        ("raiser", "recengine_epoch_end")
    ] * 2


def test_an_interruption_passes_through() -> None:
    plugins, raiser = Host(), Raiser()
    raiser.error = KeyboardInterrupt()
    plugins.add(raiser, "raiser")
    with pytest.raises(KeyboardInterrupt):
        _epoch(plugins, 0)


def test_the_first_answer_wins_and_ends_the_asking() -> None:
    plugins, old, middle, new = Host(), Chooser("cpu"), Chooser("cuda:1"), Chooser(None)
    for name, plugin in [("old", old), ("middle", middle), ("new", new)]:
        plugins.add(plugin, name)
    assert ask(plugins, "recengine_choose_device", config=None) == "cuda:1"
    assert (old.asked, middle.asked, new.asked) == (0, 1, 1)


def test_one_that_raises_counts_as_no_answer() -> None:
    plugins = Host()
    plugins.add(Chooser("cpu"), "chooser")
    plugins.add(Raiser(), "raiser")
    with pytest.warns(PluginWarning, match="'raiser' raised in recengine_choose_device"):
        assert ask(plugins, "recengine_choose_device", config=None) == "cpu"


def test_nobody_to_ask() -> None:
    assert ask(Host(), "recengine_choose_device", config=None) is None
    assert emit(Host(), "recengine_fit_start", run=None) == []


def test_a_hook_that_does_not_exist_is_the_callers_mistake() -> None:
    with pytest.raises(AttributeError):
        emit(Host(), "recengine_fit_begin", run=None)
