"""The same bits for any number of threads, from run to run, and from one process to two."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from walking import walks

from recengine.contracts.batch import PairBatch, SequenceBatch
from recengine.training import Run, fit
from recengine.training.checkpoint import digest_of, load_tensors, tensors_digest
from recengine.training.determinism import mix
from recengine.training.parts import part

SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from walking import walks
from recengine import fit
settings = json.loads(sys.argv[3])
fit("sasrec", walks(200, 150, 40), settings=settings, seed=5, directory=Path(sys.argv[1]))
"""
SETTINGS: dict[str, Any] = {
    "model": {"hidden_dim": 64, "n_blocks": 2, "max_length": 40, "dropout": 0.2},
    "training": {"epochs": 2, "batch_size": 100, "clip_norm": 1.0, "device": "cpu"},
    "split": {"strategy": "leave_two_out"},
}


def start(folder: Path, settings: dict[str, Any], **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(Path(__file__).parent), json.dumps(settings)]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors.decode()[-3000:]


def fitted(settings: dict[str, Any], folder: Path | None = None) -> Run:
    return fit("sasrec", walks(200, 150, 40), settings=settings, seed=5, directory=folder)


@pytest.mark.parametrize("loss", [{"name": "softmax"}, {"name": "sampled_softmax", "negatives": 128}])
def test_same_bits_for_any_number_of_threads_of_torch(loss: dict[str, Any]) -> None:
    digests, answers = set(), set()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            run = fitted({**SETTINGS, "loss": loss})
            assert torch.get_num_threads() == threads
            digests.add(tensors_digest(run.model.state_dict()))
            answers.add(run.recommend(run.split.train.users.tokens.tolist(), 20).write_json())
    finally:
        torch.set_num_threads(before)
    assert len(digests) == len(answers) == 1


@pytest.mark.slow
def test_same_bits_for_any_number_of_threads_of_the_environment(tmp_path: Path) -> None:
    for threads in ("1", "2"):
        finish(start(tmp_path / threads, SETTINGS, OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads))
    digests = {digest_of(tmp_path / threads / "model.safetensors") for threads in ("1", "2")}
    assert len(digests) == 1


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    settings = {**SETTINGS, "model": {**SETTINGS["model"], "dropout": 0.0}}
    fitted(settings, tmp_path / "one")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    pair = [
        start(tmp_path / "two", settings, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in (0, 1)
    ]
    for process in pair:
        finish(process)
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    for ours, theirs in zip(one, two, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)
        assert theirs["ndcg@10"] == pytest.approx(ours["ndcg@10"], abs=2e-3)
    left, right = (load_tensors(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, weights in left.items():
        torch.testing.assert_close(weights, right[name], rtol=2e-3, atol=2e-4)


def packed(lengths: list[int]) -> SequenceBatch:
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    total = int(offsets[-1])
    targets = torch.arange(total)
    targets[::3] = -1
    return SequenceBatch(
        torch.arange(len(lengths)), torch.arange(total), targets, offsets, negatives=torch.arange(4)
    )


@pytest.mark.parametrize("world", [2, 3, 5])
def test_parts_cover_the_batch_and_weigh_by_rows(world: int) -> None:
    batch = packed([5, 1, 3, 8])
    parts = [part(batch, rank, world) for rank in range(world)]
    kept = [(piece, factor) for piece, factor in parts if factor > 0]
    assert torch.equal(torch.cat([piece.items for piece, _ in kept]), batch.items)
    per_row = torch.rand(17, dtype=torch.float64)
    whole = per_row[batch.targets >= 0].mean()
    means = [factor * per_row[piece.targets[piece.targets >= 0]].mean() for piece, factor in kept]
    total = torch.stack(means).nansum()
    assert float(total) / world == pytest.approx(float(whole))
    for piece, _ in kept:
        assert isinstance(piece, SequenceBatch)
        assert int(piece.offsets[0]) == 0
        assert int(piece.offsets[-1]) == piece.items.shape[0]
        assert torch.equal(piece.negatives, batch.negatives)


def test_pairs_are_parted_with_their_negatives() -> None:
    batch = PairBatch(torch.arange(5), torch.arange(5), torch.arange(10).view(5, 2))
    (first, weight), (second, other) = part(batch, 0, 2), part(batch, 1, 2)
    assert first.negatives is not None
    assert second.negatives is not None
    assert torch.equal(torch.cat([first.negatives, second.negatives]), batch.negatives)
    assert (weight * 2 / 2, other) == (2 * 2 / 5, 2 * 3 / 5)


def test_seeds_do_not_meet() -> None:
    seen = {mix(seed, epoch, step) for seed in range(10) for epoch in range(10) for step in range(10)}
    assert len(seen) == 1000
    assert mix(1, 2) != mix(2, 1)
