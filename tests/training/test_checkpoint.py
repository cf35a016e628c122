"""Checkpoints: whole or not at all, refused when wrong, and a resumed run is the uninterrupted one."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from recengine import files, fit, load
from recengine.data import Interactions
from recengine.errors import CheckpointError, UsageError
from recengine.files import alone_in
from recengine.hooks import Host, hookimpl
from recengine.training import checkpoint

SMALL: dict[str, Any] = {
    "model": {"hidden_dim": 16, "n_blocks": 1, "max_length": 10, "dropout": 0.2},
    "training": {"epochs": 6, "batch_size": 16, "learning_rate": 1e-2, "device": "cpu", "schedule": "cosine"},
    "loss": {"name": "sampled_softmax", "negatives": 8},
    "split": {"strategy": "leave_two_out"},
}


class StopAt:
    """A plugin that presses Ctrl-C after an epoch, or in the middle of one."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    @hookimpl
    def recengine_epoch_end(self, epoch: int) -> None:
        if epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGINT)


def installed_with(plugin: object) -> Host:
    made = Host()
    made.discover()
    assert made.add(plugin, "stopper")
    return made


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_interrupted_between_epochs_then_resumed_is_bit_identical(ring: Interactions, tmp_path: Path) -> None:
    whole = fit("sasrec", ring, settings=SMALL, seed=3)
    with pytest.raises(KeyboardInterrupt):
        fit("sasrec", ring, settings=SMALL, seed=3, directory=tmp_path, host=installed_with(StopAt(3)))
    assert not (tmp_path / "run.json").exists()
    resumed = fit("sasrec", ring, settings=SMALL, seed=3, directory=tmp_path, resume=True)
    assert same_weights(whole.model, resumed.model)
    strip = [{key: value for key, value in entry.items() if key != "seconds"} for entry in whole.history]
    assert [{k: v for k, v in entry.items() if k != "seconds"} for entry in resumed.history] == strip


def test_interrupted_inside_an_epoch_then_resumed_is_bit_identical(
    ring: Interactions, tmp_path: Path
) -> None:
    whole = fit("sasrec", ring, settings=SMALL, seed=3)

    def press(event: Any) -> None:
        if event.stage == "train" and event.done == 10:  # four steps an epoch: inside the third
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit("sasrec", ring, settings=SMALL, seed=3, directory=tmp_path, progress=press)
    assert checkpoint.latest_name(tmp_path / "checkpoints") == "step-00002-00000002"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = fit("sasrec", ring, settings=SMALL, seed=3, directory=tmp_path, resume=True)
    assert same_weights(whole.model, resumed.model)
    assert [entry["loss"] for entry in resumed.history] == pytest.approx(
        [entry["loss"] for entry in whole.history], rel=1e-12
    )


def test_resuming_something_else_is_refused(ring: Interactions, tmp_path: Path) -> None:
    fit("sasrec", ring, settings=SMALL, seed=3, directory=tmp_path)
    wider = {**SMALL, "model": {**SMALL["model"], "hidden_dim": 32}}
    for change in ({"seed": 4}, {"settings": wider}):
        with pytest.raises(CheckpointError, match="another") as refused:
            fit("sasrec", ring, **{"settings": SMALL, "seed": 3, **change}, directory=tmp_path, resume=True)
    assert "found: model.hidden_dim = 16" in str(refused.value)  # what differs, and not all settings


def test_best_weights_that_are_not_the_runs_are_refused_before_training(
    ring: Interactions, tmp_path: Path
) -> None:
    constant = {**SMALL, "training": {**SMALL["training"], "schedule": "constant"}}
    longer = {**constant, "training": {**constant["training"], "epochs": 8}}
    fit("sasrec", ring, settings=constant, seed=3, directory=tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    (best,) = folder.glob("best-*.safetensors")
    (described,) = folder.glob("step-*.json")
    held, about = checkpoint.load_tensors(best), json.loads(described.read_text())
    assert about["position"]["best_digest"] == checkpoint.digest_of(best)
    name = "encoder.given.items.weight"
    for wrong, problem in (
        ({**held, name: held[name] * torch.nan}, "NaN"),
        ({name: held[name]}, "another model"),
        ({**held, name: held[name][:, :3]}, "another model"),
    ):
        digest = checkpoint.save_tensors(best, wrong)
        for recorded, match in ((about["position"]["best_digest"], "damaged"), (digest, problem)):
            position = {**about["position"], "best_digest": recorded}
            described.write_text(json.dumps({**about, "position": position}))
            with pytest.raises(CheckpointError, match=rf"(?s)best-.*{match}"):
                fit("sasrec", ring, settings=longer, seed=3, directory=tmp_path / "run", resume=True)


def test_more_epochs_go_on_from_the_end(ring: Interactions, tmp_path: Path) -> None:
    constant = {**SMALL, "training": {**SMALL["training"], "schedule": "constant"}}
    longer = {**constant, "training": {**constant["training"], "epochs": 8}}
    fit("sasrec", ring, settings=constant, seed=3, directory=tmp_path)
    resumed = fit("sasrec", ring, settings=longer, seed=3, directory=tmp_path, resume=True)
    assert same_weights(fit("sasrec", ring, settings=longer, seed=3).model, resumed.model)


@pytest.fixture
def saved(ring: Interactions, tmp_path: Path) -> Path:
    return fit("sasrec", ring, settings=SMALL, directory=tmp_path / "run").directory or tmp_path


def test_damage_is_refused(saved: Path) -> None:
    weights = saved / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        load(saved)
    with pytest.raises(CheckpointError, match="safetensors"):
        checkpoint.load_tensors(weights)
    weights.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        load(saved)
    (saved / "run.json").write_text('{"model": "sas')
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(saved)
    with pytest.raises(CheckpointError, match="no finished run"):
        load(saved / "nowhere")


def rewrite(folder: Path, change: Any) -> None:
    """Replace the weights of a saved run by what ``change`` makes of them, digest and all."""
    tensors = checkpoint.load_tensors(folder / "model.safetensors")
    change(tensors)
    about = json.loads((folder / "run.json").read_text())
    about["weights"] = checkpoint.save_tensors(folder / "model.safetensors", tensors)
    (folder / "run.json").write_text(json.dumps(about))


@pytest.mark.parametrize("damage", [None, "{bad\n", "3\n", "\udcff"])
def test_a_damaged_history_is_refused(saved: Path, damage: str | None) -> None:
    path = saved / "history.jsonl"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=r"history\.jsonl"):
        load(saved)


def test_a_damaged_record_is_refused(saved: Path) -> None:
    about = json.loads((saved / "run.json").read_text())
    for change in ({"facts": {}}, {"facts": {"n_users": "x", "n_items": 3}}, {"findings": [3]}):
        (saved / "run.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(CheckpointError, match=rf"run\.json, {next(iter(change))}: the record is damaged"):
            load(saved)


def test_a_damaged_checkpoint_is_refused(ring: Interactions, saved: Path) -> None:
    (path,) = (saved / "checkpoints").glob("step-*.json")
    about = json.loads(path.read_text())
    position = {**about["position"], "epoch": "x"}
    changes: list[dict[str, Any]] = [
        *({name: None} for name in ("identity", "position", "optimizer", "sha256")),
        *({"position": changed} for changed in (position, {**about["position"], "history": 3})),
        *({"optimizer": changed} for changed in ({}, {"state": 3, "groups": []})),
    ]
    for change in changes:
        kept = {key: value for key, value in {**about, **change}.items() if value is not None}
        path.write_text(json.dumps(kept))
        with pytest.raises(CheckpointError, match=r"lacks an entry|damaged|does not fit"):
            fit("sasrec", ring, settings=SMALL, directory=saved, resume=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epoch", -5),
        ("epoch", 99),
        ("step", 10**6),
        ("step", -1),
        ("best_epoch", 99),
        ("waited", -1),
        ("plateaus", 50),
    ],
)
def test_a_position_where_no_training_can_stand_is_refused(
    ring: Interactions, saved: Path, name: str, value: int
) -> None:
    (path,) = (saved / "checkpoints").glob("step-*.json")
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "position": {**about["position"], name: value}}))
    words = rf"(?s)checkpoints, position: the record is damaged.*found: {name} {value}\n.*expected: .*fix: "
    with pytest.raises(CheckpointError, match=words):
        fit("sasrec", ring, settings=SMALL, directory=saved, resume=True)


def test_fewer_epochs_take_up_what_is_done(ring: Interactions, saved: Path) -> None:
    fewer = {**SMALL, "training": {**SMALL["training"], "epochs": 1}}
    resumed = fit("sasrec", ring, settings=fewer, directory=saved, resume=True)
    assert len(resumed.history) == SMALL["training"]["epochs"]


def test_nan_is_refused(saved: Path) -> None:
    rewrite(saved, lambda tensors: tensors["encoder.given.items.weight"][3].fill_(torch.nan))
    with pytest.raises(CheckpointError, match=r"items\.weight.*NaN"):
        load(saved)


def test_infinity_in_what_was_solved_is_refused(ring: Interactions, tmp_path: Path) -> None:
    saved = fit("ease", ring, directory=tmp_path / "ease").directory or tmp_path
    for wrong in (torch.nan, torch.inf):
        rewrite(saved, lambda tensors, wrong=wrong: tensors["weights"][1].fill_(wrong))
        with pytest.raises(CheckpointError, match=r"weights' holds NaN or infinity"):
            load(saved)


def test_a_record_of_another_format_is_refused(saved: Path) -> None:
    about = json.loads((saved / "run.json").read_text())
    for changed, found in (
        ({**about, "format": 99}, "format 99"),
        ({"format": 1, "model": "x"}, "no seed, facts"),
    ):
        (saved / "run.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=f"(?s)run.json: .*another format.*{found}"):
            load(saved)


@pytest.mark.parametrize("name", ["test.npz", "train/user.npy"])
def test_a_damaged_split_is_not_called_a_pickle(saved: Path, name: str) -> None:
    (saved / "split" / name).write_bytes(b"xx")
    with pytest.raises(CheckpointError, match="split of the run cannot be read") as refused:
        load(saved)
    assert "pickle" not in str(refused.value)
    assert Path(name).name in str(refused.value)


def test_two_fits_do_not_share_a_folder(ring: Interactions, tmp_path: Path) -> None:
    with alone_in(tmp_path / "run"), pytest.raises(UsageError, match="another process is writing"):
        fit("sasrec", ring, settings=SMALL, directory=tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="this is a file"):
        fit("sasrec", ring, settings=SMALL, directory=tmp_path / "file")


def test_another_models_weights_are_refused(saved: Path) -> None:
    rewrite(saved, lambda tensors: tensors.pop("encoder.norm.bias"))
    with pytest.raises(CheckpointError, match=r"(?s)another model.*norm\.bias"):
        load(saved)


def test_another_shape_is_refused(saved: Path) -> None:
    rewrite(saved, lambda tensors: tensors.update({"encoder.norm.bias": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match=r"(?s)another model.*norm\.bias \[3\]"):
        load(saved)


def test_shared_memory_is_saved_and_buffers_may_grow(tmp_path: Path) -> None:
    class Grown(torch.nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.randn(4, 2))
            self.register_buffer("again", self.table.data)
            self.register_buffer("found", torch.arange(n) if n else None)

    first, second = Grown(5), Grown(0)
    checkpoint.save_tensors(tmp_path / "x.safetensors", first.state_dict())
    checkpoint.restore_module(second, checkpoint.load_tensors(tmp_path / "x.safetensors"), "x")
    assert same_weights(first, second)


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save_checkpoint(tmp_path, "step-1", {"w": torch.ones(3)}, {"position": 1})
    real, zeros = os.fsync, {"w": torch.zeros(3)}
    for failing in range(1, 7):
        calls = 0

        def full(handle: int, failing: int = failing) -> None:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        monkeypatch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save_checkpoint(tmp_path, f"step-{failing + 1}", zeros, {"position": 2})
        monkeypatch.setattr(files.os, "fsync", real)
        found = checkpoint.load_latest(tmp_path)
        assert found is not None
        if failing < 6:  # the sixth is the folder's, after the pointer was renamed
            assert found[1]["position"] == 1
            assert torch.equal(found[0]["w"], torch.ones(3))
        assert not list(tmp_path.glob(".*.tmp"))


def save_forever(folder: Path, ready: int) -> None:
    """The life of the process that is killed."""
    found = checkpoint.load_latest(folder)
    number = 0 if found is None else found[1]["position"]
    while True:
        number += 1
        tensors = {"w": torch.full((20000,), float(number))}
        checkpoint.save_checkpoint(folder, f"step-{number:08d}", tensors, {"position": number})
        os.write(ready, b".")


def test_killed_while_saving_always_leaves_a_loadable_latest(tmp_path: Path) -> None:
    rng = random.Random(0)
    reached = 0
    for _ in range(40):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            save_forever(tmp_path, writing)
        os.read(reading, 1)  # one checkpoint is there
        time.sleep(0.03 * rng.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
        found = checkpoint.load_latest(tmp_path)
        assert found is not None
        tensors, facts = found
        assert torch.equal(tensors["w"], torch.full((20000,), float(facts["position"])))
        assert facts["position"] > reached
        reached = facts["position"]
