"""What the conformance classes share: finding the registered thing, its config, skipping."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn
from unittest import SkipTest

from recengine.config import Config
from recengine.hooks import Entry, Host
from recengine.hooks import host as process_host


class Conformance:
    """Base of the conformance classes; subclasses name what is checked.

    kind: of the registry. name: as registered. plugin: the plugin's front door (module or object); it is
    added to the host when the name is not registered yet, so that a project can be checked without being
    installed. settings: of the thing itself, where its defaults are not what should be checked.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    plugin: ClassVar[Any] = None
    settings: ClassVar[dict[str, Any]] = {}

    @classmethod
    def host(cls) -> Host:
        """The host of this process, with ``plugin`` in it."""
        found = process_host()
        if cls.plugin is not None and found.manager.get_name(cls.plugin) is None:
            label = getattr(cls.plugin, "__name__", type(cls.plugin).__name__)
            if cls.name not in found.registries[cls.kind]:
                added = found.add(cls.plugin, label)
                assert added, f"the plugin was skipped: {found.broken[-1].reason}"
        return found

    @classmethod
    def entry(cls) -> Entry:
        """What is registered under ``name``; raises UsageError when nothing is."""
        return cls.host().registries[cls.kind].get(cls.name)

    @classmethod
    def config(cls) -> Any:
        """Its config with ``settings``, or None where it has none."""
        config = cls.entry().load_config()
        return None if config is None else config.parse(cls.own_settings())

    @classmethod
    def own_settings(cls) -> dict[str, Any]:
        """``settings`` as the config of the thing itself takes them."""
        return cls.settings

    def test_is_registered_with_a_summary(self) -> None:
        entry = self.entry()
        assert entry.summary.strip(), f"give the {self.kind} '{self.name}' a one-line summary"
        assert "\n" not in entry.summary, "the summary is one line"

    def test_its_settings_are_described(self) -> None:
        for fact in self._config_class().facts():
            assert fact.description, f"the setting '{fact.key}' has no description"

    def test_its_settings_round_trip(self) -> None:
        config = self._config_class()
        made = config.parse(self.own_settings())
        assert config.parse(made.model_dump()) == made, "model_dump() does not give the config back"
        assert config.parse(made.model_dump(mode="json")) == made, "JSON does not give the config back"

    def test_unknown_settings_are_refused(self) -> None:
        from recengine.errors import ConfigError

        try:
            self._config_class().parse({**self.own_settings(), "no_such_setting": 1})
        except ConfigError:
            return
        raise AssertionError("a misspelt setting passes unnoticed: derive the config from recengine's")

    def test_its_search_space_is_valid(self) -> None:
        config = self._config_class()
        known = {fact.key for fact in config.facts()}
        for key, search in config.search_space().items():
            for other, _ in search.when:
                assert other in known, f"'{key}' is searched beside values of '{other}', which is no setting"
            points = [
                point for point in (search.low, search.high, *(search.choices or ())) if point is not None
            ]
            whole = isinstance(config.model_fields[key].get_default(call_default_factory=True), int)
            for point in points:
                value = int(point) if whole and isinstance(point, float) and point.is_integer() else point
                config.parse({**self.own_settings(), key: value})

    def _config_class(self) -> type[Config]:
        config = self.entry().load_config()
        if config is None:
            skip("it has no settings")
        assert isinstance(config, type), f"the config is no class: {config!r}"
        assert issubclass(config, Config), f"{config.__name__} does not derive from recengine.config.Config"
        return config


def skip(why: str) -> NoReturn:
    """End a check that does not apply here (pytest shows it as skipped)."""
    raise SkipTest(why)


def made(target: Any) -> Any:
    """A registered object, or an instance of a registered class that takes no arguments."""
    return target() if isinstance(target, type) else target
