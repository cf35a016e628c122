"""The pages of a comparison, a study and repeated runs: what they say, that they load nothing, in a browser
too."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comparison_sample import systems
from report_sample import sample_report

from recengine.contracts.tuner import Conclusion, FrontierPoint, Observation, Reversion
from recengine.errors import DataError, UsageError
from recengine.evaluation.comparing import compare_systems
from recengine.evaluation.repeats import Repeats, summarise
from recengine.reports import (
    About,
    calibration_of,
    comparison_report,
    study_report,
    write_comparison,
    write_reliability,
    write_report,
    write_study,
)
from recengine.tuning import Parameter, Space, Study

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Corner:
    """A tuner that walks toward the corner."""

    def propose(
        self, history: list[Observation], n: int, pending: list[dict[str, object]]
    ) -> list[dict[str, object]]:
        return [{"rate": 0.01 * (len(history) + i + 1), "kind": "b"} for i in range(n)]


def study(path: Path) -> Study:
    space = Space(
        (
            Parameter("rate", "float", 0.01, 0.001, 1.0, log=True),
            Parameter("kind", "choice", "a", choices=("a", "b")),
        )
    )
    made = Study.open(path / "study.db", "walk", space, Corner(), objectives=("ndcg@10",))  # type: ignore[arg-type]

    def objective(point: dict[str, object], seed: int) -> float:
        if point["rate"] == 0.03:
            raise RuntimeError("out of memory <b>")
        return float(point["rate"]) + 0.1 * (point["kind"] == "b")  # type: ignore[arg-type]

    made.run(objective, 6)
    return made


FRONTIER = [
    FrontierPoint(0, {"rate": 0.01, "kind": "a"}, 0.0123, 0.004, 0.01),
    FrontierPoint(1, {"rate": 0.01, "kind": "b"}, 0.1357, 0.005, None),
]
CONCLUSION = Conclusion({}, {}, FRONTIER, [Reversion("kind", "a", "b", 0.031, 0.012, 0.05)])


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    compared = systems()
    result = compare_systems(compared, margin=0.02)
    sample = sample_report()
    about = About(
        title="Three systems", data=sample.data, audit=sample.audit,
        curves=(("graph", sample.systems[2].curves[0]),), configs={"graph": {"model.width": "64"}},
        environment={"torch": "2.13"}, stability={"graph": (0.81, 0.7)},
    )  # fmt: skip
    rng = np.random.default_rng(0)
    scores = (rng.random((40, 5)) < rng.random((40, 1))).astype(float)
    repeats = Repeats(tuple(range(40)), tuple(range(5)), scores)
    labels, chances = (rng.random(500) < 0.3).astype(float), np.full(500, 0.3)
    calibrated = calibration_of("ease", labels, chances + rng.normal(0, 0.01, 500))
    clicks = replace(sample_report(), calibration=(calibrated,))
    confirmation = {"recommended": [0.2, 0.21], "default": [0.01, 0.02]}
    return {
        "comparison": write_comparison(result, compared, folder / "comparison.html", about=about),
        "study": write_study(
            study(folder), folder / "study.html", confirmation=confirmation, conclusion=CONCLUSION
        ),
        "reliability": write_reliability(
            {"agent": summarise(repeats, draws=200)}, folder / "reliability.html"
        ),
        "clicks": write_report(clicks, folder / "clicks.html"),
    }


SAID = {
    "comparison": (
        "Three systems", "attention <i> is better than graph on ndcg@10",
        "graph and counting are equal on ndcg@10",
        "counting: no seed changes the result", "By length of the history", "cold", "One seed misleads",
        "Do the lists stay the same?", "every step ascends", "two-way crossed t (users x seeds)", "Protocol",
        "of the same kind", "445,603",
    ),
    "study": (
        "Every trial", "Recommended settings", "out of memory <b>", "The best trials", "Fresh seeds", "rate",
        "1 failed", "The best of 5 trials", "Lost if put back", "+0.031", "What fewer changes would give",
        "1 0.1357 0.0050 – kind", "0 0.0123 0.0040 0.0100 none",
        "How many settings each trial had away from the default", "of 2 changed",
    ),
    "reliability": ("Any of k runs, all of k runs", "pass@k (any)", "40 tasks", "intraclass correlation"),
    "clicks": ("Do the probabilities come true?", "Brier score", "Calibration of ease"),
}  # fmt: skip


def text_of(page: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.mark.parametrize("kind", SAID)
def test_pages_say_it_and_load_nothing(pages: dict[str, Path], kind: str) -> None:
    page = pages[kind].read_text("utf-8")
    said = text_of(page)
    for expected in SAID[kind]:
        assert expected in said, expected
    assert not re.search(r"<(script|link|iframe|img|object|embed|base)\b", page)
    assert not re.search(r"https?://|@import|url\(", page)
    assert "<i>attention" not in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for wanted in re.findall(r'aria-labelledby="([^"]+)"', page):
        assert set(wanted.split()) <= set(ids)
    assert json.loads(pages[kind].with_suffix(".json").read_text("utf-8"), parse_constant=pytest.fail)
    assert len(list(csv.reader(io.StringIO(pages[kind].with_suffix(".csv").read_text("utf-8"))))) > 3


@pytest.mark.parametrize("kind", SAID)
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_pages_in_a_browser(pages: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """Without a network, and nothing is asked of it (the pages hold no script: the test above)."""
    log = tmp_path / "net.json"
    dumped = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--log-net-log={log}",
            f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", pages[kind].as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    said = text_of(dumped)
    for expected in SAID[kind]:
        assert expected in said, expected
    asked = set(re.findall(r'"url":"(https?://[^"]+)"', log.read_text("utf-8", "replace")))
    page = {url for url in asked if not re.search(r"google|gvt1|chromium", url)}  # the browser's own errands
    assert page == set()


def test_groups_add_up_and_cold_items_stand_apart() -> None:
    compared = systems()
    report = comparison_report(compare_systems(compared), compared)
    by_length, by_target = report.slices
    assert by_length.labels == ("0", "1-5", "6-20", "21+")
    assert sum(by_length.counts) == 300
    assert by_target.labels[0] == "cold"
    assert by_target.counts[0] == 12
    assert sum(by_target.counts) == 300
    table = compared[1].scores["ndcg@10"]
    long = np.arange(300) % 30 >= 21
    shown = by_length.values["graph"][-1]
    assert shown is not None
    assert shown.mean == pytest.approx(table[long].mean())
    assert shown.low < shown.mean < shown.high


def test_csv_and_json_hold_the_numbers_of_the_comparison(pages: dict[str, Path]) -> None:
    told = json.loads(pages["comparison"].with_suffix(".json").read_text("utf-8"))
    rows = list(csv.DictReader(io.StringIO(pages["comparison"].with_suffix(".csv").read_text("utf-8"))))
    pair = next(p for p in told["comparison"]["pairs"] if p["metric"] == "ndcg@10")
    row = next(r for r in rows if r["section"] == "difference" and r["metric"] == "ndcg@10")
    assert float(row["low"]) == pair["test"]["low"]
    assert float(row["p_adjusted"]) == pair["p_adjusted"]
    assert sum(r["section"] == "run" and r["metric"] == "ndcg@10" for r in rows) == 9


def test_json_and_csv_hold_what_the_tuner_says_of_the_changes(pages: dict[str, Path]) -> None:
    told = json.loads(pages["study"].with_suffix(".json").read_text("utf-8"))
    assert [point["mean"] for point in told["frontier"]] == [0.0123, 0.1357]
    assert told["reversions"][0]["loss"] == 0.031
    assert {row["kind"] for row in told["trials"]} == {"search"}

    def rows(name: str) -> list[dict[str, str]]:
        text = pages["study"].with_suffix(f".{name}.csv").read_text("utf-8")
        return list(csv.DictReader(io.StringIO(text)))

    assert [(row["changed"], row["predicted"], row["kind"]) for row in rows("frontier")] == [
        ("0", "0.0123", "a"),
        ("1", "0.1357", "b"),
    ]
    trials = csv.DictReader(io.StringIO(pages["study"].with_suffix(".csv").read_text("utf-8")))
    assert {row["trial kind"] for row in trials} == {"search"}
    assert [(row["setting"], row["loss"], row["low"]) for row in rows("reversions")] == [
        ("kind", "0.031", "0.012")
    ]


def test_a_study_without_success_says_so(tmp_path: Path) -> None:
    space = Space((Parameter("rate", "float", 0.01, 0.001, 1.0),))
    empty = Study.open(tmp_path / "s.db", "none", space, Corner())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no trial has succeeded"):
        study_report(empty)


def test_calibration_of_bad_input() -> None:
    with pytest.raises(DataError, match=r"lie in \[0, 1\]"):
        calibration_of("x", [0, 1] * 10, [1.5] * 20)
    with pytest.raises(DataError, match="too few rows"):
        calibration_of("x", [0, 1], [0.5, 0.5])


def test_calibration_bins_are_counted() -> None:
    found = calibration_of("x", [0] * 5 + [1] * 5, [0.1] * 5 + [0.9] * 5, bins=2)
    assert [p for p, _ in found.bins] == pytest.approx([0.1, 0.9])
    assert [e.mean for _, e in found.bins] == [0.0, 1.0]
    assert found.error == pytest.approx(0.1)
    assert found.brier == pytest.approx(0.01)
