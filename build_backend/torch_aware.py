"""PEP 517 backend: scikit-build-core, plus torch as a build requirement only when the environment
that pip is installing into has none, so that no second torch is downloaded."""

import sysconfig
from pathlib import Path

from scikit_build_core import build as _build
from scikit_build_core.build import *

TORCH = "torch>=2.11"


def _target_has_torch() -> bool:
    # Under pip's build isolation sys.path hides the target environment, but the interpreter is the
    # target's own, so sysconfig still names its site-packages.
    return any(
        (Path(sysconfig.get_path(kind)) / "torch" / "version.py").exists() for kind in ("purelib", "platlib")
    )


def _torch() -> list[str]:
    return [] if _target_has_torch() else [TORCH]


def get_requires_for_build_wheel(config_settings=None):
    return _build.get_requires_for_build_wheel(config_settings) + _torch()


def get_requires_for_build_editable(config_settings=None):
    return _build.get_requires_for_build_editable(config_settings) + _torch()
