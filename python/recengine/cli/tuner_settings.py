"""Settings of the tuner on the command line of ``tune``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recengine.errors import UsageError
from recengine.settings.layers import parse_set

if TYPE_CHECKING:
    from recengine.config import Config


def tuner_config(tuner: str, asked: Sequence[str]) -> tuple[Config | None, dict[str, str]]:
    """The config of a registered tuner with the settings ``asked`` (KEY=VALUE), and those of them that are
    not at their default, as texts. Raises UsageError for a key that is given twice or a tuner without
    settings, ConfigError for an unknown key or a value that the setting does not take."""
    from recengine.hooks import host

    cls = host().registries["tuner"].get(tuner).load_config()
    given: dict[str, object] = {}
    for text in asked:
        key, value = parse_set(text, "--tuner-set", "rho=0.1")
        if key in given:
            raise UsageError("a setting is given twice", where="--tuner-set", found=key)
        given[key] = value
    if cls is None:
        if given:
            raise UsageError(
                f"the tuner '{tuner}' has no settings", where="--tuner-set", found=", ".join(given)
            )
        return None, {}
    config, usual = cls.parse(given, where=f"--tuner-set of '{tuner}'"), cls.parse({})
    changed = {
        name: str(value)
        for name, value in config.model_dump(mode="json").items()
        if value != usual.model_dump(mode="json")[name]
    }
    return config, changed
