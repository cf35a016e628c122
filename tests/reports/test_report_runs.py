"""Reports gathered from real fits on small data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recengine.data import Interactions, Split, SplitConfig, split
from recengine.errors import UsageError
from recengine.reports import report_of, write
from recengine.reports.gather import example_position, named, readable
from recengine.reports.pieces import curves_of, flat
from recengine.training import Run, fit, load

START = 1_483_228_800
EVALUATION = {"evaluation": {"metrics": ("ndcg@10", "hr@5")}}


def walks(n_users: int = 50, n_items: int = 40, length: int = 12) -> Interactions:
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(n_users), length)
    own = np.tile(np.arange(length), n_users)
    item = (np.repeat(rng.integers(0, n_items, n_users), length) + own * 2) % n_items
    made = Interactions.from_arrays(user, item, START + own * 86_400)
    return made.with_titles([f"THING {item}" for item in range(made.n_items)])


@pytest.fixture(scope="module")
def parts() -> Split:
    return split(walks(), SplitConfig(strategy="leave_two_out"))


@pytest.fixture(scope="module")
def runs(parts: Split) -> dict[str, Run]:
    training = {"training": {"epochs": 3}, "model": {"hidden_dim": 32, "max_length": 20}}
    return {
        "counts": fit("popularity", parts, settings=EVALUATION),
        "EASE": fit("ease", parts, settings=EVALUATION),
        "SASRec": fit("sasrec", parts, settings=EVALUATION | training),
    }


def test_numbers_are_those_of_the_evaluation(runs: dict[str, Run]) -> None:
    report = report_of(runs, data_name="walks")
    assert [system.name for system in report.systems] == ["counts", "EASE", "SASRec"]
    for system in report.systems:
        told = {row[0]: row for row in runs[system.name].evaluations["test"].summary()}
        for metric, shown in system.metrics.items():
            assert (shown.mean, shown.low, shown.high, shown.n) == tuple(told[metric][1:5])
    assert report.protocol_hash == runs["EASE"].evaluations["test"].protocol.hash
    assert report.headline == "ndcg@10"


def test_differences_are_paired_and_better_first(runs: dict[str, Run]) -> None:
    report = report_of(runs)
    assert len(report.differences) == 3
    for difference in report.differences:
        a, b = (
            runs[name].evaluations["test"].values("ndcg@10") for name in (difference.better, difference.other)
        )
        assert difference.estimate.mean == pytest.approx(float((a - b).mean()))
        assert difference.estimate.mean >= 0


def test_curves_of_a_trained_model(runs: dict[str, Run]) -> None:
    report = report_of({"SASRec": runs["SASRec"]})
    loss, quality = report.systems[0].curves
    assert loss.x == (1.0, 2.0, 3.0)
    assert quality.y == tuple(entry["ndcg@10"] for entry in runs["SASRec"].history)
    assert quality.chosen == quality.x[int(np.argmax(quality.y))]


def test_the_chosen_epoch_of_a_metric_that_should_fall_is_its_smallest() -> None:
    losses = enumerate((0.6, 0.4, 0.5), start=1)
    history = [{"epoch": epoch, "loss": value, "log_loss": value} for epoch, value in losses]
    loss, watched = curves_of(history, "log_loss")
    assert loss.chosen is None
    assert watched.chosen == 2.0


def test_lists_hold_titles_and_mark_what_came(runs: dict[str, Run], parts: Split) -> None:
    report = report_of(runs, user=7)
    (example,) = report.examples
    assert example.user == "User 7"
    at = int(np.flatnonzero(parts.test.users == 7)[0])
    targets = {
        f"Thing {item}" for item in parts.test.targets[parts.test.indptr[at] : parts.test.indptr[at + 1]]
    }
    for items in example.lists.values():
        assert len(items) == 10
        assert all(item.hit == (item.title in targets) for item in items)
    assert len(example.history) == 8
    assert example.n_history == 11


def test_users_that_were_not_asked_are_refused(runs: dict[str, Run]) -> None:
    with pytest.raises(UsageError, match="not asked"):
        report_of(runs, user="nobody")


def test_other_questions_are_refused(runs: dict[str, Run]) -> None:
    other = fit("popularity", split(walks(30), SplitConfig(strategy="leave_two_out")), settings=EVALUATION)
    with pytest.raises(UsageError, match="were not asked the same"):
        report_of({"EASE": runs["EASE"], "other": other})


def test_nothing_to_report_is_an_error() -> None:
    with pytest.raises(UsageError, match="at least one run"):
        report_of([])


def test_a_loaded_run_reports_the_same_numbers(runs: dict[str, Run], tmp_path: Path) -> None:
    again = load(runs["EASE"].save(tmp_path / "ease"))
    assert report_of(again).systems[0].metrics == report_of({"ease": runs["EASE"]}).systems[0].metrics


def test_written_page_of_one_run(runs: dict[str, Run], tmp_path: Path) -> None:
    page = write(runs["SASRec"], tmp_path / "run.html", title="One run", data_name="walks").read_text("utf-8")
    for expected in ("<title>One run</title>", "training loss", "processor", "sasrec"):
        assert expected in page
    told = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert told["data"]["rows"] == 50 * 12


def test_names_of_runs(runs: dict[str, Run]) -> None:
    same = [runs["EASE"], runs["EASE"], runs["counts"]]
    assert list(named(same)) == ["ease 1", "ease 2", "popularity"]
    assert list(named(runs["EASE"])) == ["ease"]


def test_the_example_is_chosen_without_looking_at_lists(parts: Split) -> None:
    assert example_position(parts.test, parts.train.users.tokens) == 0
    assert example_position(parts.test, parts.train.users.tokens, "9") == 9


def test_small_words() -> None:
    assert flat({"a": {"b": 1, "c": None}, "d": [1, 2], "e": ""}) == {"a.b": "1", "d": "1, 2"}
    assert readable("SOFT DRINKS: COLA, 2 LTR") == "Soft drinks: cola, 2 ltr"
    assert readable("Se7en (1995)") == "Se7en (1995)"


def test_fit_writes_a_report_on_request(tmp_path: Path) -> None:
    events = walks()
    rows = zip(events.user, events.item, events.time, strict=True)  # type: ignore[arg-type]
    (tmp_path / "walks.csv").write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    done = subprocess.run(
        [
            sys.executable, "-c", "from recengine.cli import main; main()", "fit", "popularity",
            "--data", "walks.csv", "--out", "run", "--report", "run/report.html",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "walks.csv" in (tmp_path / "run" / "report.html").read_text("utf-8")
