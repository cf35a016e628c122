"""Run by .ci/run with the python of a clean environment that holds only the wheel.

python tests/wheel_smoke.py PATH_OF_THE_RECENGINE_COMMAND
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main(command: str) -> None:
    import recengine

    assert "torch" not in sys.modules, "import recengine must not import torch"
    assert "site-packages" in recengine.__file__, f"not the installed wheel: {recengine.__file__}"

    import torch

    from recengine.ops import topk
    from recengine.ops._library import native

    assert native().cpu, f"the compiled core is not live: {native().reason}"
    scores, ids = topk(torch.eye(3), torch.eye(3), 1)
    assert ids[:, 0].tolist() == [0, 1, 2]
    assert scores[:, 0].tolist() == [1.0, 1.0, 1.0]

    doctor = subprocess.run([command, "doctor", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(doctor.stdout), "doctor printed no facts"

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "events.csv"
        rows = [f"{user},{(user * 7 + step * 3) % 40},{step}" for user in range(60) for step in range(8)]
        table.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
        out = Path(folder) / "run"
        for arguments in (["fit", "ease", "--data", str(table), "--out", str(out)], ["evaluate", str(out)]):
            done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    sys.stdout.write("the wheel works\n")


if __name__ == "__main__":
    main(sys.argv[1])
