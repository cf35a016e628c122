"""Print root;version;cuda of the installed torch without importing it (CMake reads this line)."""

import re
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

spec = find_spec("torch")
roots = [Path(spec.origin).parent] if spec and spec.origin else []
roots += [Path(sysconfig.get_path(kind)) / "torch" for kind in ("purelib", "platlib")]
for root in roots:
    facts = root / "version.py"
    if facts.exists():
        text = facts.read_text()
        version = re.search(r"__version__ = '([^'+]+)", text)[1]
        cuda = re.search(r"^cuda\b[^=]*= (.+)$", text, re.MULTILINE)[1].strip("'\" ")
        sys.stdout.write(f"{root};{version};{cuda}\n")
        sys.exit()
sys.exit(f"torch was found neither in the build environment nor in {roots}")
