"""The page says what the content says, loads nothing, and is the same twice."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_sample import sample_report

from recengine.errors import UsageError
from recengine.reports import write_report
from recengine.reports.content import Estimate, Recommended, Report
from recengine.reports.page import best_of_each, render
from recengine.reports.tables import COLUMNS, to_csv, to_json


class _Elements(HTMLParser):
    """Every tag with its attributes, every piece of text, and whether the tags nest."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def report() -> Report:
    return sample_report()


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render(report)


def test_loads_nothing_and_runs_nothing(page: str) -> None:
    elements = _Elements(page)
    assert not {"script", "link", "iframe", "object", "embed", "base", "img"} & {
        tag for tag, _ in elements.tags
    }
    for tag, attributes in elements.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "srcset", "action", "data", "xlink:href"):
                assert value is not None
                assert value.startswith("#"), (tag, name, value)
    assert not re.search(r"https?://|@import|url\(|//[a-z]", page)


def test_tags_nest_and_ids_are_unique(page: str) -> None:
    elements = _Elements(page)
    assert elements.open == []
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_drawing_speaks(page: str) -> None:
    elements = _Elements(page)
    ids = {attributes.get("id") for _, attributes in elements.tags}
    drawings = [attributes for tag, attributes in elements.tags if tag == "svg"]
    assert len(drawings) > 10
    for attributes in drawings:
        assert attributes["role"] == "img"
        assert set((attributes["aria-labelledby"] or "").split()) <= ids


def test_numbers_and_words_are_there(page: str) -> None:
    said = " ".join(" ".join(_Elements(page).text).split())
    for expected in (
        "0.0553",
        "0.0519 to 0.0587",
        "3,887",
        "445,603",
        "8f14e45fceea167a",
        "every step ascends",
    ):
        assert expected in said
    assert "ease ranks best of 3 models" in said
    assert "leads sasrec by 0.0087 (0.0058 to 0.0116)" in said


def test_same_bytes_twice(report: Report, page: str) -> None:
    assert render(report) == page


def test_titles_are_escaped(report: Report) -> None:
    evil = "<script>alert(1)</script> & co"
    example = replace(report.examples[0], lists={"ease": (Recommended(evil, True),)}, history=(evil,))
    page = render(replace(report, title=evil, examples=(example,)))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in page


def test_a_lead_that_is_not_decided_is_called_so(report: Report) -> None:
    unsure = replace(report.differences[0], estimate=Estimate(0.001, -0.001, 0.003, 2301))
    page = render(replace(report, differences=(unsure,)))
    assert "is not decided by these users" in page
    assert "not decided by these users</td>" in page


def test_one_system_and_nothing_else(report: Report) -> None:
    bare = Report("Bare", (), "ndcg@10", report.systems[:1], {}, "0" * 16)
    page = render(bare)
    assert "popularity reaches NDCG@10 0.0381" in page
    for absent in (
        'id="audit"',
        'id="data"',
        'id="slices"',
        'id="examples"',
        'id="training"',
        'class="best"',
    ):
        assert absent not in page


def test_no_metrics_at_all(report: Report) -> None:
    silent = replace(report.systems[0], metrics={})
    assert "Bare" in render(Report("Bare", (), "ndcg@10", (silent,), {}, ""))


def test_figures_that_are_not_finite_do_not_break_the_page(report: Report) -> None:
    odd = replace(report.systems[0], metrics={"ndcg@10": Estimate(math.nan, math.nan, math.nan, 0)})
    page = render(replace(report, systems=(odd,), slices=(), examples=(), differences=()))
    assert "nan" not in page.lower().replace("dominan", "")


def test_metrics_where_more_is_not_better_have_no_best(report: Report) -> None:
    systems = tuple(
        replace(s, metrics={**s.metrics, "gini@10": Estimate(0.9, 0.8, 1.0, 9)}) for s in report.systems
    )
    assert best_of_each(systems) == {"hr@10": "ease", "ndcg@10": "ease", "recall@20": "ease"}


def test_equal_means_have_no_best(report: Report) -> None:
    same = {"ndcg@10": Estimate(0.5, 0.4, 0.6, 9)}
    assert best_of_each(tuple(replace(system, metrics=same) for system in report.systems)) == {}


def test_json_and_csv_hold_the_same_numbers(report: Report) -> None:
    told = json.loads(to_json(report))
    assert told["systems"][1]["metrics"]["ndcg@10"]["mean"] == report.systems[1].metrics["ndcg@10"].mean
    rows = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert tuple(rows[0]) == COLUMNS
    overall = {(r["system"], r["metric"]): float(r["low"]) for r in rows if r["section"] == "overall"}
    assert overall["ease", "ndcg@10"] == report.systems[1].metrics["ndcg@10"].low
    assert len(overall) == 9
    by_length = [r for r in rows if r["section"] == "by events in the history"]
    assert len(by_length) == 17  # six groups for three models, one of them empty


def test_a_metric_without_an_interval_is_shown_without_one(report: Report) -> None:
    bare = Estimate(0.7708, math.nan, math.nan, 90)
    odd = replace(report.systems[0], metrics={**report.systems[0].metrics, report.headline: bare})
    changed = replace(report, systems=(odd, *report.systems[1:]))
    page = render(changed)
    assert "0.7708</b><i>no interval</i>" in page
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    assert f"overall,{odd.name},{report.headline},,0.7708,,,90" in to_csv(changed)


def test_json_has_no_nan(report: Report) -> None:
    odd = replace(report.systems[0], metrics={"ndcg@10": Estimate(math.nan, math.nan, math.inf, 0)})
    told = json.loads(to_json(replace(report, systems=(odd,))), parse_constant=pytest.fail)
    assert told["systems"][0]["metrics"]["ndcg@10"]["high"] is None


def test_write_puts_three_files_and_no_other(report: Report, tmp_path: Path) -> None:
    path = write_report(report, tmp_path / "deep" / "report.html")
    assert path == (tmp_path / "deep" / "report.html").resolve()
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.csv", "report.html", "report.json"]


def test_write_adds_the_suffix(report: Report, tmp_path: Path) -> None:
    assert write_report(report, tmp_path / "run.v2").name == "run.v2.html"


def test_missing_jinja2_says_how_to_get_it(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError, match=r"recengine\[report\]"):
        write_report(report, tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_opens_in_a_browser_without_network(report: Report, tmp_path: Path) -> None:
    path = write_report(report, tmp_path / "report.html")
    dumped = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    said = " ".join(" ".join(_Elements(dumped).text).split())
    for expected in (
        "Which groceries will a household try next?", "0.0519 to 0.0587", "Where each model does well",
        "Leakage audit", "every step ascends", "Strawberries", "8f14e45fceea167a", "chosen: 1,000",
    ):  # fmt: skip
        assert expected in said, expected


def test_many_metrics_turn_the_table(report: Report) -> None:
    more = {f"ndcg@{k}": Estimate(0.01 * k, 0.01 * k - 0.001, 0.01 * k + 0.001, 99) for k in range(1, 8)}
    page = render(
        replace(report, systems=tuple(replace(s, metrics=s.metrics | more) for s in report.systems))
    )
    assert '<th scope="row">NDCG@7<small' in page
    assert '<th scope="row">Fitted in</th>' in page
    assert '<th scope="col">NDCG@7</th>' not in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
